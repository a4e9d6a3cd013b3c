// The address says what is looked at: `#lobby`, or `#lobby/812` for one message.

export type Route = { readonly channel: string | undefined; readonly sequence: number | undefined };

const FORM = /^#([a-z0-9][a-z0-9._-]{0,63})(?:\/([1-9][0-9]{0,15}))?$/;

export function route(hash: string = location.hash): Route {
  const [, channel, sequence] = FORM.exec(hash) ?? [];
  return { channel, sequence: sequence === undefined ? undefined : Number(sequence) };
}

/** `quietly`: without an entry in the browser's history. */
export function routeTo(channel: string | undefined, sequence?: number, quietly = false): void {
  const hash = channel === undefined ? "" : sequence === undefined ? `#${channel}` : `#${channel}/${sequence}`;
  if (quietly) {
    history.replaceState(null, "", hash === "" ? location.pathname : hash);
  } else {
    location.hash = hash;
  }
}
