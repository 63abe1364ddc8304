// A reader's file, as much of it as is asked for: a config.json whole, of a GGUF its header. It goes to no server.

const FIRST = 4 << 20; // bytes of a GGUF to begin with: most headers with their vocabulary
const MOST = 64 << 20;

const text64 = async blob => {
  const address = await new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
  return address.slice(address.indexOf(",") + 1);
};

// The file as a config: { config } or { error }. ask   puts a question to Python
export async function openFile(file, ask) {
  const begins = await file.slice(0, 4).text();
  if (begins !== "GGUF" && !/\.gguf$/i.test(file.name)) return { config: await file.slice(0, MOST).text() };
  for (let length = FIRST; length <= MOST; length *= 2) {
    const gguf = await text64(file.slice(0, length));
    const said = await ask({ gguf, name: file.name, size: file.size });
    if (!said?.more) return said ?? {};
  }
  return { error: `${file.name}: its header is longer than ${MOST >> 20} MiB` };
}
