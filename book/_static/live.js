// Before a reader touches a calculator: sliders stand right, settings that do not matter are out of sight. At the first
// touch, or where the address has settings, the rest is fetched (book/live); until it is there, what is pressed is kept.
"use strict";
(() => {
  const script = document.currentScript;
  const root = new URL(script.dataset.live, new URL("..", script.src));
  const sheets = [...document.querySelectorAll(".calculator")];

  // A slider has the limits of its field; one of ratios a thousand places from the least to the most.
  const fieldOf = slider => slider.parentElement.querySelector("[type=number]");
  const place = slider => {
    const { min, max, step, value } = fieldOf(slider);
    const ratio = "ratio" in slider.dataset;
    Object.assign(slider, ratio ? { min: 0, max: 1000, step: 1 } : { min, max, step });
    slider.value = ratio ? 1000 * Math.log(value / min) / Math.log(max / min) : value;
  };
  const slid = slider => {
    const field = fieldOf(slider);
    const { min, max } = field;
    if (!("ratio" in slider.dataset)) return (field.value = slider.value);
    const value = Number((min * (max / min) ** (slider.value / 1000)).toPrecision(2));
    field.value = Math.min(Math.max("whole" in slider.dataset ? Math.round(value) : value, min), max);
  };
  const moved = ({ target }) => {
    if (target.type === "range") slid(target);
    else if (target.type === "number") target.parentElement.querySelectorAll("[type=range]").forEach(place);
  };

  const sift = form => {
    for (const box of form.querySelectorAll("[data-when]")) {
      box.hidden = !box.dataset.when.split(" ").every(one => {
        const [name, values] = one.split("=");
        const field = form.elements[name];
        return values.split("|").includes(field.type === "checkbox" ? String(field.checked) : field.value);
      });
    }
  };

  let opened, pressed;
  const open = () => {
    if (location.protocol === "file:") {
      for (const sheet of sheets) sheet.querySelector(".served").hidden = false;
      return;
    }
    opened ??= fetch(new URL("live.json", root), { cache: "no-cache" })
      .then(found => found.json())
      .then(async site => {
        const { open } = await import(new URL(`${site.page}/page.mjs`, root));
        await open({ root, site, sheets, sift, place });
        pressed?.click();
      })
      .catch(error => {
        opened = undefined; // the next touch tries again
        for (const sheet of sheets) sheet.querySelector(".progress").textContent = error.message;
      });
  };

  for (const sheet of sheets) {
    const form = sheet.querySelector("form");
    form.querySelectorAll("input[type=range]").forEach(place);
    form.addEventListener("input", event => {
      moved(event);
      sift(form);
    });
    form.addEventListener("submit", event => event.preventDefault());
    sift(form);
    for (const kind of ["pointerdown", "focusin", "keydown", "input", "click"]) {
      sheet.addEventListener(kind, event => {
        const part = event.target.closest("input, select, textarea, button, label");
        if (!part) return;
        if (kind === "click" && part.matches("button") && !sheet.dataset.live) pressed = part;
        open();
      });
    }
  }
  const linked = () => sheets.some(sheet => RegExp(`[#&]${sheet.dataset.calculator}\\.`).test(location.hash)) && open();
  addEventListener("hashchange", linked);
  linked();
})();
