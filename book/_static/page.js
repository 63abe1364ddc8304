// A field above a long page shows only what has its words; a button only what has its class. See Filter in llmhw_pages.
"use strict";

for (const form of document.querySelectorAll("form.filter")) {
  const field = form.querySelector("input");
  const status = form.querySelector("[role=status]");
  const buttons = [...form.querySelectorAll("button")];
  // What belongs together is shown together: a definition with the terms above it.
  const items = [...document.querySelectorAll(form.dataset.of)].map(one => {
    const all = [one];
    for (let up = one.previousElementSibling; one.matches("dd") && up?.matches("dt"); up = up.previousElementSibling) {
      all.unshift(up);
    }
    return { all, words: all.map(each => each.textContent).join(" ").toLowerCase() };
  });
  const parents = new Set(items.map(item => item.all[0].parentElement).filter(up => up.matches("section section")));

  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const pressed = buttons.find(button => button.getAttribute("aria-pressed") === "true")?.dataset.class;
    let count = 0;
    for (const { all, words: text } of items) {
      const fits = words.every(word => text.includes(word)) && (!pressed || all[0].classList.contains(pressed));
      for (const one of all) one.hidden = !fits;
      count += fits;
    }
    for (const up of parents) up.hidden = !items.some(({ all }) => all[0].parentElement === up && !all[0].hidden);
    status.textContent = count === items.length ? "" : status.dataset.says.replace("{count}", count).replace("{all}", items.length);
  };

  field.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") === "true";
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button && !on));
      show();
    });
  }
  form.hidden = false;
}

// The search button is called by the words that it shows, for readers who speak to the page.
for (const button of document.querySelectorAll("button.search-button-field")) button.removeAttribute("aria-label");

// The list of references is made of list items.
for (const entry of document.querySelectorAll(".citation-list > .citation")) entry.setAttribute("role", "listitem");

// What scrolls in its own box can be scrolled with the keyboard.
const reach = () => document.querySelectorAll(".drawn, .bd-article :is(div.math, pre), div.cell_output .output").forEach(box => {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
});
reach();
window.addEventListener("resize", reach);

// The other language's page opens at the same place, with what the address asks.
for (const link of document.querySelectorAll("a.other-language")) {
  const page = link.getAttribute("href");
  const lead = () => link.setAttribute("href", page + location.search + location.hash);
  for (const event of ["pointerenter", "pointerdown", "focus", "click"]) link.addEventListener(event, lead);
}

// Parts of a font that come late: Chromium leaves some lines as they were shaped without it, until their style changes.
let parts = 0;
document.fonts?.addEventListener("loadingdone", () => {
  document.body.style.fontFeatureSettings = `"kern" ${++parts}`;
});
