// Server-Sent Events read from a response's body. The browser's EventSource sends no `Authorization` and tells no status.

/** The messages of a stream: `{id, data, retry}` as far as each has them. `heard` is called for whatever arrives. */
export async function* messagesOf(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const parts = (waiting + value).split("\n\n");
      waiting = parts.pop();
      for (const part of parts) yield message(part);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function message(part) {
  const found = {};
  for (const line of part.split("\n")) {
    const colon = line.indexOf(":");
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1).trimStart()];
    if (name === "id" || name === "data") found[name] = value;
    else if (name === "retry") found.retry = Number(value);
  }
  return found;
}
