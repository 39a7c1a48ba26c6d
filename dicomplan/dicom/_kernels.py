"""Numba kernel of the dicom room: decimal strings to numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]

_POWERS = 10.0 ** np.arange(23)  # all exact in a double


@kernel()
def decimals(text: NDArray[np.uint8], out: FloatArray) -> bool:
    """Numbers of an ASCII ``text`` with backslashes between into ``out``, to the last bit as ``float`` reads them.

    Whether it could: False where a number has more digits or another form than this exact way takes (a whole number of
    at most 2^53 times or over a power of ten of at most 22, both exact, is rounded once), or is none at all.
    """
    size = text.size
    place = 0
    for index in range(out.size):
        while place < size and text[place] == 32:
            place += 1
        negative = False
        if place < size and (text[place] == 45 or text[place] == 43):
            negative = text[place] == 45
            place += 1
        mantissa = np.int64(0)
        digits = 0
        behind = 0
        point = False
        while place < size:
            code = text[place]
            if 48 <= code <= 57:
                mantissa = mantissa * 10 + (code - 48)
                if mantissa > 9007199254740992:
                    return False
                digits += 1
                if point:
                    behind += 1
            elif code == 46 and not point:
                point = True
            else:
                break
            place += 1
        if digits == 0:
            return False
        power = -behind
        if place < size and (text[place] == 69 or text[place] == 101):
            place += 1
            downward = False
            if place < size and (text[place] == 45 or text[place] == 43):
                downward = text[place] == 45
                place += 1
            exponent = 0
            first = place
            while place < size and 48 <= text[place] <= 57:
                exponent = exponent * 10 + (text[place] - 48)
                if exponent > 1000:
                    return False
                place += 1
            if place == first:
                return False
            power += -exponent if downward else exponent
        if power < -22 or power > 22:
            return False
        value = float(mantissa)
        if power < 0:
            value /= _POWERS[-power]
        else:
            value *= _POWERS[power]
        out[index] = -value if negative else value
        while place < size and text[place] == 32:
            place += 1
        if index < out.size - 1:
            if place >= size or text[place] != 92:
                return False
            place += 1
    return place == size
