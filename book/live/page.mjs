// The calculators of a page: forms are read, Python is asked, what it says is put in its place. Nothing is computed here.
import { Desk } from "./desk.mjs";
import { read, written } from "./link.mjs";
import { openFile } from "./file.mjs";
import { picker } from "./picker.mjs";

const language = document.documentElement.lang.startsWith("zh") ? "zh" : "en";

// Make the page's calculators alive. root, site   where all lies; sheets   the sections; sift   hides settings that do
// not matter; place   puts a slider where its field says
export async function open({ root, site, sheets, sift, place }) {
  const address = path => new URL(path, root).href;
  const where = { runtime: address(`${site.python}/`), wheel: address(site.wheel), key: site.key, names: site.names };
  let words = {}, all = [];
  const told = {};
  const tell = (stage, how) => {
    told[stage] = how ?? true; // tests read it
    document.documentElement.dataset.live = JSON.stringify(told);
    if (stage === "kept") return;
    const text = { broken: `${words.broken} (${how})`, ready: "" }[stage] ?? words[stage] ?? "";
    for (const sheet of all) sheet.progress(text);
  };
  const desk = new Desk(where, tell);
  const { words: own, ...names } = await (await fetch(address(`${site.page}/${language}.json`))).json();
  words = own;
  all = sheets.map(section => new Sheet(section, desk, words, names, { sift, place }));
  if (!desk.ready) for (const sheet of all) sheet.progress(words.start);
  await Promise.all(all.map(sheet => sheet.start()));
  addEventListener("hashchange", () => all.forEach(sheet => sheet.follow()));
}

class Sheet {
  constructor(section, desk, words, names, tools) {
    Object.assign(this, { section, desk, words, ...tools, name: section.dataset.calculator, extra: {} });
    this.form = section.querySelector("form");
    this.answer = section.querySelector(".answer");
    this.fields = [...this.form.elements].filter(field => field.name);
    this.pickers = new Map();
    for (const field of this.fields) {
      if (field.dataset.names) this.pickers.set(field.name, picker(field, names[field.dataset.names], words));
    }
    this.listen();
    section.dataset.live = "";
  }

  async start() {
    const touched = this.fields.some(field =>
      field.type === "checkbox" ? field.checked !== field.defaultChecked
        : field.matches("select") ? !(field.selectedOptions[0]?.defaultSelected ?? true)
          : field.value !== field.defaultValue);
    if (await this.follow()) return;
    const [pasted, file] = [this.form.querySelector(".own textarea")?.value, this.form.querySelector("[type=file]")?.files[0]];
    if (file) this.file(file);
    else if (pasted) this.pasted(pasted);
    else if (touched) this.ask();
  }

  // What the address says, if it says something new of this calculator.
  async follow() {
    const said = await read(location.hash, this.name);
    if (!said || JSON.stringify(said) === this.said) return false;
    this.set(said);
    this.section.scrollIntoView();
    this.ask();
    return true;
  }

  // The form as it is at first, but for what is said.
  set({ config, ...said }) {
    this.form.reset();
    this.extra = config === undefined ? {} : { config };
    const area = this.form.querySelector(".own textarea");
    if (area) area.value = config ?? "";
    for (const field of this.fields) {
      const value = said[field.name];
      delete said[field.name];
      if (field.type === "checkbox" && value !== undefined) field.checked = value === "true";
      else if (value !== undefined) field.value = value;
      if (field.matches("select") && field.selectedIndex < 0) { // no such choice: the library says so
        field.value = [...field.options].find(one => one.defaultSelected).value;
        this.extra[field.name] = value;
      }
      this.pickers.get(field.name)?.set(field.value);
    }
    this.form.querySelectorAll("[type=range]").forEach(this.place);
    Object.assign(this.extra, said);
    this.sift(this.form);
  }

  settings() {
    const shown = this.fields.filter(field => !field.closest("[data-when][hidden]"));
    const said = shown.map(field => [field.name, field.type === "checkbox" ? String(field.checked) : field.value]);
    return { ...Object.fromEntries(said), ...this.extra };
  }

  // -- what a reader does

  listen() {
    const own = this.form.querySelector(".own");
    this.form.addEventListener("input", event => {
      const field = event.target;
      if (field.closest(".own")) return;
      delete this.extra[field.name];
      this.ask();
    });
    this.form.addEventListener("picked", event => {
      if (event.target.dataset.names === "model") this.forget();
      this.ask();
    });
    own?.querySelector("textarea").addEventListener("input", event => this.pasted(event.target.value));
    own?.querySelector("[type=file]").addEventListener("change", event => this.file(event.target.files[0]));
    if (own) {
      this.section.addEventListener("dragover", event => event.preventDefault());
      this.section.addEventListener("drop", event => {
        event.preventDefault();
        const [file] = event.dataTransfer.files;
        if (file) {
          own.open = true;
          this.file(file);
        }
      });
    }
    this.section.addEventListener("click", event => {
      const button = event.target.closest("button");
      if (button) this.press(button);
    });
  }

  press(button) {
    if (button.matches(".explain")) this.explain(button, button.getAttribute("aria-expanded") !== "true");
    else if (button.matches(".copy")) this.copy(button, button.parentElement.querySelector("pre").textContent);
    else if (button.matches(".link")) this.link(button);
    else if (button.matches(".again")) this.again();
    else if (button.matches(".forget")) {
      this.forget();
      this.ask();
    }
  }

  again() {
    this.forget();
    this.set({});
    this.ask();
  }

  forget() {
    delete this.extra.config;
    const own = this.form.querySelector(".own");
    if (own) own.querySelectorAll("textarea, [type=file]").forEach(field => { field.value = ""; });
  }

  pasted(text) {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => {
      if (text.trim()) this.extra.config = text;
      else delete this.extra.config;
      this.ask();
    }, 300);
  }

  async file(file) {
    if (!file) return;
    const { config, error } = await openFile(file, question => this.desk.ask(`${this.section.id} file`, { ...question, language }));
    if (error) return this.show({ error });
    this.form.querySelector(".own textarea").value = config;
    this.extra.config = config;
    this.ask();
  }

  // -- asking and showing

  question(more) {
    return { calculator: this.name, settings: this.settings(), language, ...more };
  }

  async ask() {
    this.answer.setAttribute("aria-busy", "true");
    const answer = await this.desk.ask(this.section.id, this.question());
    if (!answer) return; // a later question is on its way
    this.show(answer);
    if (answer.more) return this.ask(); // a search that goes on; what the reader sets meanwhile comes first
    this.remember();
    for (const button of this.answer.querySelectorAll(".explain")) {
      if (this.explained?.has(button.dataset.figure)) this.explain(button, true);
    }
  }

  show({ html, verdict, error }) {
    const { answer } = this;
    answer.removeAttribute("aria-busy");
    const parts = () => [...answer.querySelectorAll("button, summary, [tabindex]")];
    const open = [...answer.querySelectorAll("details")].map(one => one.open);
    const focus = parts().indexOf(document.activeElement);
    if (error === undefined) answer.innerHTML = html; // Python escaped all that a reader typed
    else answer.replaceChildren(Object.assign(document.createElement("p"), { className: "verdict error", textContent: error }));
    answer.querySelectorAll("details").forEach((one, index) => { one.open = open[index] ?? one.open; });
    if (focus >= 0) parts()[focus]?.focus({ preventScroll: true });
    for (const box of answer.querySelectorAll(".scroll, pre")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; // what scrolls can be scrolled with the keyboard
    }
    clearTimeout(this.hearing);
    this.hearing = setTimeout(() => this.hear(verdict ?? error), 700);
  }

  hear(text) {
    this.section.querySelector(".heard").textContent = text;
  }

  progress(text) {
    this.section.querySelector(".progress").textContent = text;
  }

  async explain(button, on) {
    const { figure } = button.dataset;
    const line = button.closest("dd");
    (this.explained ??= new Set())[on ? "add" : "delete"](figure);
    button.setAttribute("aria-expanded", String(on));
    if (line.nextElementSibling?.matches(".explanation")) line.nextElementSibling.remove();
    if (!on) return;
    const said = await this.desk.ask(`${this.section.id} ${figure}`, this.question({ explain: figure }));
    if (!said || !line.isConnected || button.getAttribute("aria-expanded") !== "true") return;
    const text = Object.assign(document.createElement("pre"), { textContent: said.explanation ?? said.error });
    const place = Object.assign(document.createElement("dd"), { className: "explanation" });
    place.append(text);
    line.after(place);
    this.hear(text.textContent);
  }

  // -- links

  remember() {
    clearTimeout(this.writing);
    this.writing = setTimeout(() => this.write(), 400);
  }

  async write() {
    const settings = this.settings();
    const { hash, whole } = await written(location.hash, this.name, settings);
    this.said = JSON.stringify(await read(hash, this.name));
    history.replaceState(history.state, "", hash);
    return whole;
  }

  async link(button) {
    const whole = await this.write();
    await this.copy(button, location.href);
    if (!whole) this.progress(this.words.long);
  }

  async copy(button, text) {
    const before = (button.dataset.says ??= button.textContent);
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no clipboard without https
      const area = Object.assign(document.createElement("textarea"), { value: text });
      button.after(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = this.words.copied;
    this.hear(this.words.copied);
    setTimeout(() => { button.textContent = before; }, 1500);
  }
}
