// Talks to the server: its configuration, its models, and one streamed answer at a time. It decides what a
// failure is called, so that every error reaches the page as one sentence with the way out; it knows no elements.
// Addresses are relative to the page, which may live behind a proxy's prefix.

export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code; // the server's, which stays the same when its words change
  }
}

export async function loadConfig() {
  return (await request("web/config.json")).json();
}

export async function listModels(key) {
  return (await (await request("v1/models", { headers: headersFor(key) })).json()).data;
}

/**
 * Yields the chunks of a streamed chat completion as they arrive. Throws an ApiError when the server refuses,
 * fails midway or falls silent, and the signal's AbortError when stopped.
 */
export async function* streamChat(body, key, signal) {
  const text = JSON.stringify(body);
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { ...headersFor(key), "Content-Type": "application/json" },
    body: text,
    signal,
  });
  for await (const data of serverSentEvents(response.body, signal)) {
    if (data === "[DONE]") return;
    let chunk;
    try {
      chunk = JSON.parse(data);
    } catch {
      throw new ApiError(`The server sent an event that is not JSON: ${data.slice(0, 80)}`);
    }
    if (chunk.error) throw new ApiError(`The server failed midway: ${chunk.error.message ?? "it does not say why."}`);
    yield chunk;
  }
  throw new ApiError("The connection ended before the answer did; ask again.");
}

export function headersFor(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

export async function request(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { ...options, credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached; check that it is running and that this device is connected.");
  }
  if (!response.ok) throw await refusal(response, options.body?.length ?? 0);
  return response;
}

/** What the server said, and what to do about it. */
async function refusal(response, sentBytes) {
  const { status } = response;
  const error = await response
    .json()
    .then((body) => body.error)
    .catch(() => null);
  const why = sentenceOf(error?.message ?? `it answered ${status} ${response.statusText}`.trim());
  const megabytes = (sentBytes / 1e6).toFixed(1);
  const sentence =
    {
      401: "The API key was refused. Look for a missing or an extra character, or ask whoever runs this server.",
      413: `The request of ${megabytes} MB is too large for this server; remove an image or send a smaller one. ${why}`,
      429: `The server is busy. ${why}`,
      503: `The server is not ready. ${why}`,
    }[status] ?? why;
  return new ApiError(sentence + waiting(response.headers.get("Retry-After")), status, error?.code ?? null);
}

/** The server's words for programs begin small; here they stand among sentences. */
function sentenceOf(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Retry-After is a number of seconds or a date. */
function waiting(header) {
  if (!header) return "";
  const seconds = /^\d+$/.test(header) ? Number(header) : Math.ceil((Date.parse(header) - Date.now()) / 1000);
  return seconds > 0 ? ` Try again in ${seconds} s.` : "";
}

/** The data of each event. Comments, which keep the connection alive, are passed over. */
async function* serverSentEvents(stream, signal) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await read(reader, signal);
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line.startsWith("data:")) {
          data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
        } else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // the answer is no longer wanted; the server sees the closed connection
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The connection broke off in the middle of the answer; ask again.");
  }
}
