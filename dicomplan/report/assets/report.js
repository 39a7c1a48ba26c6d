"use strict";
(function () {
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const read = (id) => { const node = document.getElementById(id); return node ? JSON.parse(node.textContent) : null; };
  const SVG = document.querySelector("svg") ? document.querySelector("svg").namespaceURI : null;
  const show = (button, on) => {
    button.setAttribute("aria-pressed", on ? "true" : "false");
    const curve = button.dataset.d, outline = button.dataset.s;
    all(curve !== undefined ? ".curve.d" + curve : ".o.s" + outline).forEach((item) => item.classList.toggle("off", !on));
  };
  all("button.toggle").forEach((button) => button.addEventListener("click", () => show(button, button.getAttribute("aria-pressed") !== "true")));
  all("button.every").forEach((button) => button.addEventListener("click", () => all(".dvh-legend .toggle").forEach((item) => show(item, button.dataset.on === "1"))));
  all("input.kind").forEach((box) => box.addEventListener("change", () => all(".curve." + box.dataset.kind).forEach((item) => item.classList.toggle("off-kind", !box.checked))));
  all("input.layer").forEach((box) => box.addEventListener("change", () => box.closest("section").classList.toggle("no-" + box.dataset.layer, !box.checked)));

  all("input.slicer").forEach((slider) => {
    const figure = slider.closest("figure"), slices = all(".slice", figure), caption = figure.querySelector(".position");
    const turn = () => {
      slices.forEach((slice, index) => slice.classList.toggle("on", index === Number(slider.value)));
      caption.textContent = slices[Number(slider.value)].dataset.caption;
    };
    slider.addEventListener("input", turn);
    turn();
  });

  const dvh = read("dvh-values"), plot = document.querySelector("svg.dvh");
  if (dvh && plot) {
    const frame = dvh.frame, tip = document.getElementById("dvh-tip"), marker = plot.querySelector(".marker");
    const px = (dose) => frame.left + (frame.width * dose) / frame.largest_gy;
    const py = (volume) => frame.top + frame.height * (1 - volume);
    dvh.curves.forEach((curve) => { curve.path = plot.querySelector(".curve." + curve.kind + ".d" + curve.index); });
    let hot = null;
    const leave = () => { tip.classList.add("off"); marker.classList.add("off"); if (hot) { hot.classList.remove("hot"); hot = null; } };
    plot.addEventListener("mouseleave", leave);
    plot.addEventListener("mousemove", (event) => {
      const area = plot.getBoundingClientRect(), scale = plot.viewBox.baseVal.width / area.width;
      const x = (event.clientX - area.left) * scale, y = (event.clientY - area.top) * scale;
      let best = null;
      for (const curve of dvh.curves) {
        if (curve.path.classList.contains("off") || curve.path.classList.contains("off-kind")) continue;
        for (let i = 1; i < curve.dose_gy.length; i++) {
          if (curve.volume_fraction[i - 1] <= 0 || curve.dose_gy[i - 1] > frame.largest_gy) break;
          const ax = px(curve.dose_gy[i - 1]), ay = py(curve.volume_fraction[i - 1]);
          const bx = px(curve.dose_gy[i]) - ax, by = py(curve.volume_fraction[i]) - ay, length = bx * bx + by * by;
          const t = length ? Math.min(1, Math.max(0, ((x - ax) * bx + (y - ay) * by) / length)) : 0;
          const away = Math.hypot(x - ax - t * bx, y - ay - t * by);
          if (!best || away < best.away) best = { away: away, curve: curve, x: ax + t * bx, y: ay + t * by };
        }
      }
      if (!best || best.away > 24) { leave(); return; }
      if (hot && hot !== best.curve.path) hot.classList.remove("hot");
      hot = best.curve.path; hot.classList.add("hot");
      const dose = ((best.x - frame.left) / frame.width) * frame.largest_gy, volume = 100 * (1 - (best.y - frame.top) / frame.height);
      tip.textContent = best.curve.structure + " (" + best.curve.kind + "): " + dose.toFixed(2) + " Gy, " + volume.toFixed(1) + " %";
      tip.classList.remove("off"); marker.classList.remove("off");
      marker.setAttribute("cx", best.x); marker.setAttribute("cy", best.y);
      const left = best.x / scale + 12, room = area.width - tip.offsetWidth - 2;
      tip.style.left = Math.max(0, Math.min(left, room)) + "px"; tip.style.top = Math.max(0, best.y / scale - 34) + "px";
    });
  }

  const beams = read("segments");
  const piece = (parent, name, attributes) => {
    const node = document.createElementNS(SVG, name);
    Object.keys(attributes).forEach((key) => node.setAttribute(key, attributes[key]));
    parent.appendChild(node);
  };
  all("input.stepper").forEach((slider) => {
    const card = slider.closest(".beam-card"), beam = beams[Number(slider.dataset.beam)], layer = card.querySelector(".leaves"), state = card.querySelector(".state");
    const view = card.querySelectorAll("svg.bev")[1].viewBox.baseVal, left = view.x, right = view.x + view.width;
    const rest = state.textContent;
    const step = () => {
      const number = Number(slider.value);
      card.classList.toggle("stepping", number > 0);
      layer.replaceChildren();
      if (!number) { state.textContent = rest; return; }
      const segment = beam.segments[number - 1], edges = beam.boundaries_mm;
      state.textContent = beam.word + " " + number + " of " + beam.segments.length + ": " + segment.mu.toFixed(2) + " MU";
      for (let i = 0; i + 1 < edges.length; i++) {
        const y = -edges[i + 1], height = edges[i + 1] - edges[i], x1 = segment.leaves_mm[0][i], x2 = segment.leaves_mm[1][i];
        if (y > view.y + view.height || y + height < view.y) continue;
        if (x1 > left) piece(layer, "rect", { class: "blade", x: left, y: y, width: x1 - left, height: height });
        if (x2 < right) piece(layer, "rect", { class: "blade", x: x2, y: y, width: right - x2, height: height });
      }
      const jx = segment.jaw_x_mm || [left - 9, right + 9], jy = segment.jaw_y_mm || [-view.y - view.height - 9, -view.y + 9];
      piece(layer, "rect", { class: "jaw", x: jx[0], y: -jy[1], width: jx[1] - jx[0], height: jy[1] - jy[0] });
      const path = card.querySelectorAll(".segment")[number - 1].getAttribute("d");
      piece(layer, "path", { class: "open", d: path, transform: "scale(.1)", style: "stroke-width:11" });
    };
    slider.addEventListener("input", step);
    step();
  });
})();
