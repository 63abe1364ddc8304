// The thread in which Python answers, so that the page stays quick. In: { site } once, then { question } texts;
// out: { stage } while it starts, { ready } with how, then for each question { answer } or { broken }; { kept } once.
import { ask, keep, start } from "./python.mjs";

let python;
let idle; // what is left to do in quiet moments
let ours = true; // nothing that a reader pasted was in the memory

// Ask each calculator once as it is at first, so that the next page finds all of it warm; then keep the memory.
function* quietly({ names, key }) {
  for (const calculator of names) yield ask(python, JSON.stringify({ calculator }));
  if (ours) yield keep(python, key).then(kept => postMessage({ kept }));
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
  }, 200);
}

async function begin(site) {
  const begun = await start({ ...site, tell: stage => postMessage({ stage }) });
  python = begun.python;
  if (!begun.again) idle = quietly(site);
  postMessage({ ready: true, again: begun.again });
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
