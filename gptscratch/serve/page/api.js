// The server's API: one function for each thing that the page asks for.

const KEY = "gptscratch-api-key";

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export async function listModels() {
  return (await (await request("/v1/models")).json()).data;
}

// For each id, how many tokens in a row around it are in the training text; the longest span after the prompt.
export async function copiedSpans(model, ids, after) {
  return (await request("/v1/copied", { model, ids, after })).json();
}

// Calls onChunk for each event of a completion; aborting the signal stops the generation on the server.
export async function complete(body, onChunk, signal) {
  const answer = await request("/v1/completions", { ...body, stream: true, return_tokens: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError("The server ended the connection.");
    const events = (buffer + value).split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message);
      onChunk(chunk);
    }
  }
}

async function request(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    const method = body ? "POST" : "GET";
    answer = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is gptscratch serve still running?");
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  throw new ApiError(error?.message ?? `The server answered with status ${answer.status}.`, answer.status);
}
