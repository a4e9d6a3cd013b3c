// A timeline on made-up messages, to look at and for the browser tests: `?n=50000&loaded=400&unread=49900`.
//
//   npx esbuild demo/timeline.ts demo/timeline.css --bundle --format=esm --outdir=demo --servedir=demo
import { Timeline } from "../src/timeline/timeline.ts";
import { MadeUpSource, SPECIAL } from "./source.ts";

const query = new URLSearchParams(location.search);
const number = (name: string, otherwise: number) => Number(query.get(name) ?? otherwise);
if (query.has("theme")) document.documentElement.dataset["theme"] = query.get("theme")!;

const newest = number("n", 50);
const source = new MadeUpSource(newest);
source.delayMs = number("delay", 0);
const said: { read: number; isAtNewest: boolean | undefined } = { read: 0, isAtNewest: undefined };
const timeline = new Timeline(document.querySelector<HTMLElement>("#timeline")!, source, {
  onReadUpTo: (sequence) => (said.read = sequence),
  onAtNewest: (isAtNewest) => (said.isAtNewest = isAtNewest),
});
source.changed = () => timeline.changed();
source.fill(newest - number("loaded", 50) + 1, newest);
if (query.has("unread")) {
  timeline.markUnreadFrom(number("unread", 1));
  timeline.showUnread();
}
// For the tests, and for the console.
Object.assign(window, { timeline, source, said, SPECIAL });
