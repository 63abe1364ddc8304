// Python in the reader's browser, with the library in it. Its second start takes the memory of the first.
//
// Starting Python and importing the library takes seconds. So after the first answers the memory and the library's files
// are kept in the browser's Cache Storage, under a key that is the content of all that is in it, and the next page begins
// from there. Where there is no such storage (private windows, addresses without https) or anything fails, Python starts
// as usual.

const FIRST = "from llmhw.live import respond";
const PLACE = "llmhw-live-"; // before the key, in Cache Storage
const LIBRARY = "/llmhw"; // where the wheel is unpacked in Python's file system, which is no part of its memory
const PARTS = ["memory", "files", "index"];

const part = name => new URL(name, import.meta.url).href;

async function kept(key) {
  try {
    const cache = await caches.open(PLACE + key);
    const found = await Promise.all(PARTS.map(name => cache.match(part(name))));
    if (!found.every(Boolean)) return undefined;
    const [memory, files, index] = await Promise.all(found.map(one => one.arrayBuffer()));
    const list = JSON.parse(new TextDecoder().decode(index));
    return { memory: new Uint8Array(memory), files: new Uint8Array(files), list };
  } catch {
    return undefined;
  }
}

async function forget(but) {
  for (const name of await caches.keys()) {
    if (name.startsWith(PLACE) && name !== but) await caches.delete(name);
  }
}

const below = (fs, folder) => fs.readdir(folder).filter(name => name !== "." && name !== "..").flatMap(name => {
  const path = `${folder}/${name}`;
  return fs.isDir(fs.stat(path).mode) ? below(fs, path) : [path];
});

// Keep Python as it is for the next page, instead of what was kept of other versions.
export async function keep(python, key) {
  try {
    const paths = below(python.FS, LIBRARY);
    const files = paths.map(path => python.FS.readFile(path));
    const index = JSON.stringify(paths.map((path, i) => [path, files[i].length]));
    const memory = python.makeMemorySnapshot();
    await forget(PLACE + key);
    const cache = await caches.open(PLACE + key);
    const parts = [memory, new Blob(files), index];
    await Promise.all(PARTS.map((name, i) => cache.put(part(name), new Response(parts[i]))));
    return true;
  } catch {
    return false;
  }
}

// Start Python: runtime, wheel   addresses; key   of what was kept; tell   is called at each stage.
// Gives { python, again }: again says that it began with what an earlier page kept.
export async function start({ runtime, wheel, key, tell = () => {} }) {
  const usual = globalThis.fetch;
  // Content has its hash in its address, so what was fetched once is never asked for again.
  globalThis.fetch = (address, options) => usual(address, { cache: "force-cache", ...options });
  try {
    const [before, { loadPyodide }, { default: create }] = await Promise.all([
      kept(key), import(`${runtime}pyodide.mjs`), import(`${runtime}pyodide.asm.mjs`),
    ]);
    if (before) {
      tell("again");
      try {
        return { python: await restored({ loadPyodide, create, runtime, ...before }), again: true };
      } catch (error) {
        console.warn(error);
        await forget().catch(() => {});
      }
    }
    tell("first");
    const library = fetch(wheel);
    const python = await loadPyodide({ indexURL: runtime, createPyodideModule: create, _makeSnapshot: true });
    const found = await library;
    if (!found.ok) throw new Error(`${found.status}: ${wheel}`);
    tell("start");
    python.unpackArchive(await found.arrayBuffer(), "wheel", { extractDir: LIBRARY });
    python.runPython(`import sys; sys.path.append(${JSON.stringify(LIBRARY)})\n${FIRST}`);
    return { python, again: false };
  } finally {
    globalThis.fetch = usual;
  }
}

async function restored({ loadPyodide, create, runtime, memory, files, list }) {
  const larger = async settings => {
    const module = await create(settings);
    while (module.HEAP8.length < memory.length) module._malloc(4 << 20); // WebAssembly's memory only grows by asking
    return module;
  };
  const given = { _loadSnapshot: Promise.resolve(memory), createPyodideModule: larger };
  const python = await loadPyodide({ indexURL: runtime, ...given });
  let at = 0;
  for (const [path, length] of list) {
    python.FS.mkdirTree(path.slice(0, path.lastIndexOf("/")));
    python.FS.writeFile(path, files.subarray(at, at += length));
  }
  python.runPython("respond");
  return python;
}

export function ask(python, question) {
  python.globals.set("question", question);
  return python.runPython("respond(question)");
}
