// The server's API as this page uses it.

/** An answer that the server refuses, in its own sentence. `status` is the HTTP status. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

function headers(key) {
  const json = { "Content-Type": "application/json" };
  return key ? { ...json, Authorization: `Bearer ${key}` } : json;
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  return new Refused(body?.error?.message ?? `The server answered with status ${response.status}.`, response.status);
}

/** The name of the model that is served. */
export async function servedModel(key) {
  const response = await fetch("v1/models", { headers: headers(key) });
  if (!response.ok) throw await refusal(response);
  return (await response.json()).data[0].id;
}

/** Ask for an answer; yields the chunks of its stream. */
export async function* stream(body, key, signal) {
  const sent = { method: "POST", headers: headers(key), body: JSON.stringify({ ...body, stream: true }), signal };
  const response = await fetch("v1/chat/completions", sent);
  if (!response.ok) throw await refusal(response);
  for await (const line of events(response.body)) {
    if (line === "[DONE]") return;
    const chunk = JSON.parse(line);
    if (chunk.error) throw new Refused(chunk.error.message, 500);
    yield chunk;
  }
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice("data: ".length);
  }
}
