// A channel of made-up messages that need no server: the same ones every time, some of them nasty.
import type { Entry, Message } from "@hubbub/client";
import { ChannelLog } from "../src/timeline/log.ts";
import type { Source } from "../src/timeline/source.ts";

export const NAMES = [
  "ana", "bo.lindqvist", "chidi", "Дарья", "עמית", "田中さくら", "fatima.al-rashid", "george", "ليلى", "h4x<b>or</b>",
  "a-very-long-user-name-that-somebody-chose-because-nobody-said-no", "Zoë 🦊",
];

const WORDS = (
  "the release is out and looks fine so far but somebody should watch queue depth on node three while we roll back " +
  "yesterday's change I think we can wait until tomorrow morning unless latency goes up again thanks for looking into it"
).split(" ");

export const SPECIAL: readonly string[] = [
  ":tada: :rocket:",
  "👍",
  "see https://example.org/wiki/Hubbub_(chat)?q=1#top, or mail mailto:ops@example.org",
  "run `cargo test --lib` before you push",
  "```rust\nfn main() {\n    let answer = 42; // a comment that goes on for rather longer than the column is wide, as they do\n    println!(\"{answer}\");\n}\n```",
  "שלום לכולם, הגרסה החדשה מוכנה (v1.2) ואפשר לנסות אותה",
  "صباح الخير! هل رأى أحد https://example.org/ar اليوم؟",
  "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" + "aaaaaaaaaaaaaaaa".repeat(8),
  "<img src=x onerror=alert(1)> <script>alert(2)</script> javascript:alert(3) [x](javascript:alert(4))",
  "one\ntwo\n\nfour: a list\n- apples\n- pears\n- a much longer item that wraps to the next line because it does not fit into the column at all",
  "z̷̡̛͉̦̰̳̬̭̣̩̐͒̓̔̈́̍̇͂a̸̧̢̛̹̺̹̖̣͔͋̊̎̈́̿̑l̶̡̛̰̱̜̠̙̳̔̓̈́̏͑̕g̵̨̧̛̰̦̞̲̫̈́̓͗̒̚o̴̢̨̘̤̭̤͗̔̈́͐͂̕",
  "各位早上好,今天的发布推迟到下午三点。请在此之前完成测试,谢谢大家的配合!如有问题请直接在这里回复。",
];

/** The same number for the same input, spread over 0…1. */
function noise(n: number): number {
  const x = Math.sin(n * 127.1 + 311.7) * 43_758.5453;
  return x - Math.floor(x);
}

function bodyOf(sequence: number): string {
  if (noise(sequence * 3) < 0.11) return SPECIAL[Math.floor(noise(sequence * 7) * SPECIAL.length)]!;
  const length = noise(sequence) < 0.8 ? 2 + Math.floor(noise(sequence * 11) * 16) : 20 + Math.floor(noise(sequence * 13) * 70);
  const words = Array.from({ length }, (_, i) => WORDS[Math.floor(noise(sequence * 17 + i) * WORDS.length)]!);
  return words.join(" ");
}

export function entryAt(sequence: number, newest: number, now: number): Entry {
  const common = { sequence, at: now - (newest - sequence) * 140_000, userId: 1 + Math.floor(noise(Math.floor(sequence / 3)) ** 1.6 * NAMES.length) };
  if (noise(sequence * 19) < 0.02) return { ...common, kind: "membership", memberId: common.userId, role: "member" } as Entry;
  return { ...common, kind: "message", body: bodyOf(sequence) } as Message;
}

export class MadeUpSource implements Source {
  readonly channel = "lobby";
  readonly me = 1;
  readonly log = new ChannelLog(1);
  delayMs = 0;
  failure: string | undefined;
  loads = 0;
  changed: () => void = () => {};
  readonly #now = Date.now();
  #newest: number;

  constructor(newest: number) {
    this.#newest = newest;
    this.log.head = newest;
  }

  get newest(): number {
    return this.#newest;
  }

  name(userId: number): string {
    return NAMES[userId - 1] ?? "";
  }

  fill(from: number, to: number): void {
    const entries = [];
    for (let i = Math.max(1, from); i <= Math.min(to, this.#newest); i++) entries.push(entryAt(i, this.#newest, this.#now));
    this.log.add(entries);
    this.changed();
  }

  async loadBefore(sequence: number): Promise<void> {
    await this.#wait();
    this.fill(sequence - 50, sequence - 1);
  }

  async loadRange(from: number, to: number): Promise<void> {
    await this.#wait();
    this.fill(from, to);
  }

  async loadAround(sequence: number): Promise<void> {
    await this.#wait();
    this.fill(sequence - 50, sequence + 50);
  }

  async sequenceAt(date: Date): Promise<number> {
    return Math.max(1, Math.min(this.#newest, this.#newest - Math.floor((this.#now - date.getTime()) / 140_000)));
  }

  /** Somebody writes. */
  receive(body: string, userId = 2, clientMessageId?: string): void {
    const sequence = ++this.#newest;
    this.log.add([{ kind: "message", sequence, at: Date.now(), userId, body, clientMessageId } as Message]);
    this.changed();
  }

  retry(key: string): void {
    this.log.retry(key);
  }

  discard(key: string): void {
    this.log.discard(key);
  }

  async #wait(): Promise<void> {
    this.loads++;
    if (this.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
    if (this.failure !== undefined) throw new Error(this.failure);
  }
}
