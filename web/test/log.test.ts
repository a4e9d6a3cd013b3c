import assert from "node:assert/strict";
import { test } from "node:test";
import type { Entry } from "@hubbub/client";
import { ChannelLog } from "../src/timeline/log.ts";

const ME = 7;

function message(sequence: number, userId = 1, clientMessageId?: string): Entry {
  return { kind: "message", sequence, at: sequence, userId, body: `message ${sequence}`, clientMessageId };
}

function run(from: number, to: number): Entry[] {
  return Array.from({ length: to - from + 1 }, (_, i) => message(from + i));
}

function shape(log: ChannelLog): [number, number][] {
  return log.ranges.map(({ from, to }) => [from, to]);
}

/** The same numbers for the same seed; a failure names its seed. */
function random(seed: number): (below: number) => number {
  let state = seed * 2_654_435_761 + 1;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) % below;
  };
}

test("random runs, pages and gaps leave each sequence once, in order, and exact gaps", () => {
  for (let seed = 1; seed <= 400; seed++) {
    const below = random(seed);
    const log = new ChannelLog(ME);
    const known = new Set<number>();
    let head = 0;
    let forgotten = 0;
    for (let step = 0; step < 60; step++) {
      const what = below(10);
      if (what === 0) {
        head = Math.max(head, below(140));
        log.reach(head);
      } else if (what === 1 && step > 30) {
        forgotten = below(60);
        log.forgetBefore(forgotten);
        for (const sequence of known) if (sequence < forgotten) known.delete(sequence);
      } else {
        const from = 1 + below(120);
        let entries = run(from, from + below(12));
        // A page with holes, as a server that skips would send it.
        if (what === 2) entries = entries.filter(() => below(3) > 0);
        log.add(entries);
        for (const { sequence } of entries) known.add(sequence);
        head = Math.max(head, ...entries.map(({ sequence }) => sequence));
      }
      const sequences = log.ranges.flatMap(({ entries }) => entries.map(({ sequence }) => sequence));
      const expected = [...known].sort((a, b) => a - b);
      assert.deepEqual(sequences, expected, `seed ${seed} step ${step}`);
      assert.equal(log.head, head, `seed ${seed} step ${step}`);
      const missing = log.gaps().flatMap(({ from, to }) => Array.from({ length: to - from + 1 }, (_, i) => from + i));
      const holes = [];
      for (let i = (expected[0] ?? head + 1) + 1; i <= head; i++) if (!known.has(i)) holes.push(i);
      assert.deepEqual(missing, holes, `seed ${seed} step ${step}`);
      for (const { from, to, entries } of log.ranges) {
        assert.equal(entries.length, to - from + 1);
        assert.ok(!known.has(from - 1) && !known.has(to + 1), `ranges touch: seed ${seed} step ${step}`);
      }
      const probe = 1 + below(140);
      assert.equal(log.entry(probe)?.sequence, known.has(probe) ? probe : undefined);
    }
  }
});

test("what is written here shows exactly once, in whichever order it is acknowledged and delivered", () => {
  for (let seed = 1; seed <= 600; seed++) {
    const below = random(seed);
    const log = new ChannelLog(ME);
    log.add(run(1, 5));
    // The server's order of what several people write, and what this client hears of it.
    const delivered: Entry[] = [];
    const heard: { step: () => void; after?: number }[] = [];
    const keys: string[] = [];
    for (let sequence = 6; sequence <= 14; sequence++) {
      if (below(2) === 0) {
        delivered.push(message(sequence, 2, "another's"));
        continue;
      }
      const key = `key-${sequence}`;
      keys.push(key);
      log.publish(key, `message ${sequence}`, 99);
      delivered.push(message(sequence, ME, key));
      heard.push({ step: () => log.acknowledge(key, sequence, below(2) === 0 ? undefined : sequence) });
    }
    const [liveTo, pageFrom] = [below(9), 6 + below(9)];
    const deliveries: (() => void)[] = delivered.slice(0, liveTo + 1).map((entry) => () => log.add([entry]));
    deliveries.push(() => log.reach(14));
    deliveries.push(() => log.add(delivered.filter(({ sequence }) => sequence >= pageFrom)));
    deliveries.push(() => log.add(delivered));
    const acknowledgements = heard.map(({ step }) => step);
    while (deliveries.length + acknowledgements.length > 0) {
      const isDelivery = below(deliveries.length + acknowledgements.length) < deliveries.length;
      (isDelivery ? deliveries.shift()! : acknowledgements.splice(below(acknowledgements.length), 1)[0]!)();
      const shown = [
        ...log.ranges.flatMap(({ entries }) => entries).flatMap((entry) => (entry.kind === "message" ? [entry.body] : [])),
        ...[...log.outgoing].map(({ body }) => body),
      ];
      assert.equal(new Set(shown).size, shown.length, `seed ${seed}: ${shown.join(", ")}`);
      for (const key of keys) assert.ok(shown.includes(`message ${key.slice(4)}`), `seed ${seed}: ${key} is not shown`);
    }
    assert.deepEqual(shape(log), [[1, 14]], `seed ${seed}`);
    assert.deepEqual([...log.outgoing], [], `seed ${seed}`);
  }
});

test("an acknowledgement that overtakes the messages before it makes no gap", () => {
  const log = new ChannelLog(ME);
  log.add(run(1, 3));
  log.publish("k", "mine", 50);
  log.acknowledge("k", 6, 60);
  assert.deepEqual(log.gaps(), []);
  assert.deepEqual([...log.outgoing], [{ key: "k", body: "mine", at: 60, state: "sent", sequence: 6 }]);
  log.add(run(4, 5));
  log.add([message(6, ME, "k")]);
  assert.deepEqual([...log.outgoing], []);
  assert.deepEqual(shape(log), [[1, 6]]);
});

test("the delivered message takes the place of the one that was put in for it", () => {
  const log = new ChannelLog(ME);
  log.add(run(1, 3));
  log.publish("k", "mine", 50);
  log.acknowledge("k", 5);
  log.reach(8);
  assert.deepEqual(log.gaps(), [{ from: 4, to: 4 }, { from: 6, to: 8 }]);
  log.add(run(4, 8).map((entry) => (entry.sequence === 5 ? { ...entry, body: "as delivered", userId: ME } as Entry : entry)));
  const entry = log.entry(5);
  assert.equal(entry?.kind === "message" && entry.body, "as delivered");
});

test("the same client message id of somebody else replaces nothing", () => {
  const log = new ChannelLog(ME);
  log.publish("k", "mine", 50);
  log.add([message(1, ME + 1, "k")]);
  assert.equal([...log.outgoing].length, 1);
});

test("a failed message is delivered after all, is tried again, or is given up", () => {
  const log = new ChannelLog(ME);
  for (const key of ["a", "b", "c"]) {
    log.publish(key, key, 1);
    log.fail(key, "no answer");
  }
  log.add([message(1, ME, "a")]);
  log.retry("b");
  log.discard("b");
  log.discard("c");
  assert.deepEqual([...log.outgoing], [{ key: "b", body: "b", at: 1, state: "pending" }]);
  log.acknowledge("b", 2, 0);
  log.fail("b", "too late to fail");
  assert.equal([...log.outgoing][0]?.at, 1);
  assert.deepEqual([...log.outgoing].map(({ state }) => state), ["sent"]);
  log.acknowledge("never-written", 9, 9);
  assert.deepEqual([...log.outgoing].length, 1);
});

test("another epoch throws the entries away and keeps what is not sent", () => {
  const log = new ChannelLog(ME);
  log.add(run(1, 30));
  log.publish("a", "a", 1);
  log.publish("b", "b", 1);
  log.acknowledge("b", 99, 1);
  const { revision } = log;
  log.reset(2);
  assert.ok(log.revision > revision);
  assert.deepEqual(shape(log), []);
  assert.deepEqual([...log.outgoing].map(({ key }) => key), ["a"]);
  log.add(run(1, 2));
  assert.deepEqual(shape(log), [[1, 2]]);
});

test("only what is no message at the end changes the revision", () => {
  const log = new ChannelLog(ME);
  log.add(run(10, 20));
  const { revision } = log;
  log.add(run(21, 22));
  log.add(run(15, 22));
  log.publish("k", "k", 1);
  log.acknowledge("k", 23, 1);
  log.add([message(23, ME, "k")]);
  assert.equal(log.revision, revision);
  log.add(run(8, 9));
  assert.ok(log.revision > revision);
});
