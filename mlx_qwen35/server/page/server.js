// The server that the page comes from.

export const access = { key: "", refused: false, asked() {} }; // the API key, and what to do when the server wants one

export async function call(path, options) {
  const headers = { "Content-Type": "application/json" };
  // Headers hold bytes, each given as a character.
  const key = String.fromCharCode(...new TextEncoder().encode(access.key.trim()));
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Error("The server cannot be reached.");
  }
  access.refused = response.status === 401;
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  if (access.refused) access.asked();
  throw new Error(body?.error?.message ?? `The server answered ${response.status} ${response.statusText}`);
}

const post = (path, body, signal) => call(path, { method: "POST", body: JSON.stringify(body), signal });

export async function modelName() {
  return (await (await call("v1/models", {})).json()).data[0].id;
}

export async function blocksOf(text, partial) { // Markdown as HTML: [{html, line}]
  return (await (await post("render", { text, partial })).json()).blocks;
}

export async function* events(body, signal) { // of an answer that is being written, each with when it came
  const response = await post("v1/chat/completions", body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "";;) {
    const { done, value } = await reader.read().catch((error) => {
      throw signal.aborted ? error : new Error("The connection to the server broke.");
    });
    if (done) return;
    const arrived = performance.now();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const progress = /^: (\d+) of (\d+) prompt tokens/.exec(line);
      if (progress) yield { read: Number(progress[1]), total: Number(progress[2]) };
      else if (line.startsWith("data: {")) yield { ...JSON.parse(line.slice(6)), arrived };
    }
  }
}
