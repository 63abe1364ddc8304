// A field in which a reader finds a name of the catalog: type a few letters, go with the arrows, take with Enter.
import Combobox from "./combobox.mjs";

const MOST = 60; // names in the list at once

// Give the field a list. names   pairs of name and what to know of it; words   what the page says
export function picker(field, names, words) {
  const list = Object.assign(document.createElement("ul"), { id: `${field.id}-names`, className: "names", hidden: true });
  const count = Object.assign(document.createElement("span"), { className: "visually-hidden" });
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", field.labels[0]?.textContent ?? field.name);
  count.setAttribute("role", "status");
  field.after(list, count);
  const combobox = new Combobox(field, list, { firstOptionSelectionMode: "none", tabInsertsSuggestions: false });
  let taken = field.value;

  const found = text => {
    const asked = text.toLowerCase().split(/\s+/).filter(Boolean);
    const fit = names.filter(pair => asked.every(word => pair.join(" ").toLowerCase().includes(word)));
    const begins = ([name]) => (name.toLowerCase().startsWith(asked[0] ?? "") ? 0 : 1);
    return fit.sort((one, other) => begins(one) - begins(other));
  };

  const option = ([name, about], index) => {
    const item = Object.assign(document.createElement("li"), { id: `${list.id}-${index}`, textContent: name });
    item.setAttribute("role", "option");
    item.dataset.name = name;
    item.append(" ", Object.assign(document.createElement("small"), { textContent: about }));
    return item;
  };

  const close = () => {
    if (list.hidden) return;
    list.hidden = true;
    combobox.stop();
  };

  const show = text => {
    const fit = found(text);
    list.replaceChildren(...fit.slice(0, MOST).map(option));
    count.textContent = words.found.replace("{count}", fit.length);
    if (!fit.length) return close();
    if (list.hidden) {
      list.hidden = false;
      combobox.start();
    }
  };

  const take = name => {
    close();
    field.value = taken = name;
    field.dispatchEvent(new Event("picked", { bubbles: true }));
  };

  // What stands in the field, or the one name that it can mean; what the catalog lacks, the library answers.
  const settle = () => {
    const fit = found(field.value);
    const exact = fit.some(([name]) => name === field.value);
    take(fit.length === 1 && !exact ? fit[0][0] : field.value);
  };

  field.addEventListener("input", event => {
    event.stopPropagation(); // letters are no setting yet
    show(field.value);
  });
  field.addEventListener("click", () => {
    field.select();
    show("");
  });
  field.addEventListener("keydown", event => {
    if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
      field.value = taken;
    } else if (event.key === "ArrowDown" && list.hidden) {
      event.preventDefault();
      show(field.value === taken ? "" : field.value);
      combobox.navigate(1);
    } else if (event.key === "Enter" && !combobox.input.getAttribute("aria-activedescendant")) {
      settle();
    }
  });
  field.addEventListener("blur", () => {
    close();
    if (field.value !== taken) settle();
  });
  list.addEventListener("pointerdown", event => event.preventDefault()); // the field keeps the focus
  list.addEventListener("combobox-commit", event => take(event.target.dataset.name));
  return { set: name => { taken = field.value = name; } };
}
