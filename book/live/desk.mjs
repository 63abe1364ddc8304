// Questions to Python in its worker, one at a time. Of several that wait for the same place, the latest counts.

const PATIENCE = 30000; // milliseconds; no question takes a thirtieth of it

export class Desk {
  // site   addresses for the worker; tell   hears how the start goes: "first", "again", "start", "ready"
  constructor(site, tell) {
    Object.assign(this, { site, tell, waiting: new Map(), asked: undefined });
    this.begin();
  }

  begin() {
    this.ready = false;
    this.worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module", name: "llmhw" });
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.worker.onerror = event => {
      event.preventDefault();
      this.hear({ broken: event.message || "the worker did not start" });
    };
    this.worker.postMessage({ site: this.site });
  }

  // What Python answers to a question; undefined if a later one for the same place came before its turn.
  ask(place, question) {
    this.waiting.get(place)?.done(undefined);
    const said = new Promise(done => this.waiting.set(place, { question, done }));
    this.next();
    return said;
  }

  next() {
    if (!this.ready || this.asked || this.waiting.size === 0) return;
    const [place, asked] = this.waiting.entries().next().value;
    this.waiting.delete(place);
    this.asked = asked;
    this.clock = setTimeout(() => this.hear({ broken: "it took too long" }), PATIENCE);
    this.worker.postMessage({ question: JSON.stringify(asked.question) });
  }

  hear(data) {
    if (data.stage) this.tell(data.stage);
    if (data.ready) {
      this.ready = true;
      this.tell("ready", data.again);
    }
    if (data.kept !== undefined) this.tell("kept", data.kept);
    if (data.answer !== undefined) this.reply(JSON.parse(data.answer));
    if (data.broken !== undefined) this.broken(data.broken);
    this.next();
  }

  reply(answer) {
    clearTimeout(this.clock);
    const { done } = this.asked;
    this.asked = undefined;
    done(answer);
  }

  // A worker that broke is ended. One that had started is replaced; one that could not start is not tried for ever.
  broken(why) {
    this.worker.terminate();
    const all = [...this.waiting.values()];
    if (this.asked) this.reply({ error: why });
    if (this.ready) return this.begin();
    this.waiting.clear();
    for (const { done } of all) done({ error: why });
    this.tell("broken", why);
  }
}
