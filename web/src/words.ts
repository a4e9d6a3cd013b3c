// Refusals in words for people. The server's own message is the fallback.
import { HubbubError } from "@hubbub/client";

const WORDS: Readonly<Record<string, string>> = {
  forbidden: "You may not do that here.",
  unknown_channel: "There is no such channel, or it is not for you.",
  channel_exists: "A channel of this name exists already.",
  invalid_channel_name: "A name has a–z and 0–9, with . _ - between them, 64 at most.",
  unknown_user: "There is no such user.",
  last_owner: "A channel needs an owner: make another member one first.",
  not_a_member: "Only members can do that.",
  channel_archived: "This channel is archived.",
  quota_exhausted: "This channel has taken all that it ever will.",
  message_too_large: "This is too long for one message.",
  rate_limited: "That was a lot at once. Wait a moment.",
  busy: "The server has a lot to do. Try again in a moment.",
  overloaded: "The server has a lot to do. Try again in a moment.",
  storage_unavailable: "The server cannot store anything now.",
  channel_sealed: "This channel's store is damaged. Tell whoever runs this server.",
  timeout: "No answer came in time.",
  disconnected: "Not connected.",
  unknown_command: "This server does not know how to do that yet.",
  idempotency_conflict: "Another message was sent under the same number.",
  empty_message: "There is nothing in it.",
};

export function explain(error: unknown): string {
  if (error instanceof HubbubError) return WORDS[error.code] ?? sentence(error.message);
  return "Something went wrong on this page.";
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}
