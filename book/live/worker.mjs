// The thread in which Python answers, so that the page stays quick. In: { site } once, then { question } texts;
// out: { stage } while it starts, { ready } with how, then for each question { answer } or { broken }.
import { ask, keepMemory, start } from "./python.mjs";

let python;
let idle; // what is left to do in quiet moments
let ours = true; // only answers to what is published were in the memory, nothing that a reader pasted

// Ask each calculator once as it is at first, so that the next page finds all of it warm; then keep the memory.
function* quietly({ names, key }) {
  for (const calculator of names) yield ask(python, JSON.stringify({ calculator }));
  if (ours) yield keepMemory(python, key).then(kept => postMessage({ kept }));
}

function rest() {
  clearTimeout(rest.timer);
  rest.timer = setTimeout(() => {
    try {
      if (idle && !idle.next().done) return rest();
    } catch (error) {
      console.warn(error); // the next page starts as this one did
    }
    idle = undefined;
  }, 300);
}

async function begin(site) {
  const { python: begun, kept } = await start({ ...site, tell: stage => postMessage({ stage }) });
  python = begun;
  if (!kept) idle = quietly(site);
  postMessage({ ready: true, kept });
}

onmessage = async ({ data }) => {
  try {
    if (data.site) return await begin(data.site);
    if (/"(config|gguf)"/.test(data.question)) ours = false;
    postMessage({ answer: ask(python, data.question) });
    rest();
  } catch (error) {
    postMessage({ broken: String(error.message ?? error).slice(-300) });
  }
};
