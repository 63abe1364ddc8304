// Settings in the part of the address that no server sees: #fit.model=llama-3-8b&fit.device=h100. A pasted config is
// packed, if it stays short.

const LONGEST = 8000; // letters of a packed config: longer addresses are cut by mail and chat
const MOST = 1 << 20; // letters of a config that is unpacked: a short link must not fill the memory

const through = async (bytes, stream) => {
  const reader = new Blob([bytes]).stream().pipeThrough(stream).getReader();
  const found = [];
  let length = 0;
  for (let part; !(part = await reader.read()).done;) {
    found.push(part.value);
    if ((length += part.value.length) > MOST) throw new Error("too long");
  }
  return new Uint8Array(await new Blob(found).arrayBuffer());
};

async function packed(text) {
  const bytes = await through(new TextEncoder().encode(text), new CompressionStream("deflate-raw"));
  let letters = "";
  for (const byte of bytes) letters += String.fromCharCode(byte);
  return btoa(letters).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

async function unpacked(text) {
  if (text.length > LONGEST) throw new Error("too long");
  const letters = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
  const bytes = Uint8Array.from(letters, letter => letter.charCodeAt(0));
  return new TextDecoder().decode(await through(bytes, new DecompressionStream("deflate-raw")));
}

// The part of an address that says these settings, after those of the other calculators in it. `whole` is false where
// a config is too long for it.
export async function written(hash, calculator, settings) {
  const others = [...new URLSearchParams(hash.replace(/^#/, ""))].filter(([key]) => /^\w+\./.test(key));
  const said = new URLSearchParams(others.filter(([key]) => !key.startsWith(`${calculator}.`)));
  let whole = true;
  for (const [name, value] of Object.entries(settings)) {
    if (name !== "config") said.set(`${calculator}.${name}`, value);
    else {
      const short = value.length > MOST ? undefined : await packed(value);
      if (short?.length <= LONGEST) said.set(`${calculator}.config`, short);
      else whole = false;
    }
  }
  return { hash: `#${said}`, whole };
}

// The settings of a calculator that an address says, or undefined if it says none.
export async function read(hash, calculator) {
  const found = {};
  for (const [key, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (!key.startsWith(`${calculator}.`)) continue;
    const name = key.slice(calculator.length + 1);
    found[name] = name === "config" ? await unpacked(value).catch(() => value) : value;
  }
  return Object.keys(found).length ? found : undefined;
}
