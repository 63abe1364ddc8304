// Python in the reader's browser, with the library in it. Its second start takes the memory of the first.
//
// Starting Python and importing the library takes seconds. So after the first answers the memory is kept in the
// browser's Cache Storage, under a key that is the content of all that is in it, and the next page begins from there.
// Where there is no such storage (private windows, addresses without https) or anything fails, Python starts as usual.

const FIRST = "from llmhw.live import respond";
const PLACE = "llmhw-live-"; // before the key, in Cache Storage

// Content has its hash in its address, so what was fetched once is never asked for again.
const once = address => fetch(address, { cache: "force-cache" });

async function keptMemory(key) {
  try {
    const kept = await (await caches.open(PLACE + key)).match("memory");
    return kept && new Uint8Array(await kept.arrayBuffer());
  } catch {
    return undefined;
  }
}

async function forget(but) {
  for (const name of await caches.keys()) {
    if (name.startsWith(PLACE) && name !== but) await caches.delete(name);
  }
}

// Keep Python's memory for the next page, instead of that of other versions.
export async function keepMemory(python, key) {
  try {
    await forget(PLACE + key);
    const cache = await caches.open(PLACE + key);
    await cache.put("memory", new Response(python.makeMemorySnapshot()));
    return true;
  } catch {
    return false;
  }
}

// Start Python: runtime, wheel   addresses; key   of the memory to begin with; tell   is called at each stage.
// Gives { python, kept }: kept says that it began with the memory of an earlier page.
export async function start({ runtime, wheel, key, tell = () => {} }) {
  const usual = globalThis.fetch;
  globalThis.fetch = (address, options) => usual(address, { cache: "force-cache", ...options });
  try {
    const library = once(wheel).then(found => {
      if (!found.ok) throw new Error(`${found.status}: ${wheel}`);
      return found.arrayBuffer();
    });
    library.catch(() => {}); // told below, where it is needed
    const memory = await keptMemory(key);
    tell(memory ? "again" : "first");
    const { loadPyodide } = await import(`${runtime}pyodide.mjs`);
    if (memory) {
      try {
        const python = await restored({ loadPyodide, runtime, memory });
        python.unpackArchive(await library, "wheel");
        python.runPython("respond");
        return { python, kept: true };
      } catch {
        await forget().catch(() => {});
      }
    }
    const python = await loadPyodide({ indexURL: runtime, _makeSnapshot: true });
    tell("start");
    python.unpackArchive(await library, "wheel");
    python.runPython(FIRST);
    return { python, kept: false };
  } finally {
    globalThis.fetch = usual;
  }
}

async function restored({ loadPyodide, runtime, memory }) {
  const { default: create } = await import(`${runtime}pyodide.asm.mjs`);
  const larger = async settings => {
    const module = await create(settings);
    while (module.HEAP8.length < memory.length) module._malloc(4 << 20); // WebAssembly's memory only grows by asking
    return module;
  };
  return loadPyodide({ indexURL: runtime, _loadSnapshot: Promise.resolve(memory), createPyodideModule: larger });
}

export function ask(python, question) {
  python.globals.set("question", question);
  return python.runPython("respond(question)");
}
