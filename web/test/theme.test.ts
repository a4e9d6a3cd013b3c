// The contrasts that theme.css promises, computed from theme.css itself.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

type Theme = ReadonlyMap<string, number>;

const css = readFileSync("src/theme.css", "utf8");
const COLOUR = String.raw`oklch\(([\d.]+)% ([\d.]+) ([\d.]+)\)`;
const TOKEN = new RegExp(String.raw`(--[a-z0-9-]+): light-dark\(${COLOUR}, ${COLOUR}\);`, "g");

/** OKLCH → relative luminance of WCAG 2. A channel outside sRGB is clipped, as a screen does. */
function luminance(lightness: number, chroma: number, hue: number): number {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const clip = (x: number) => Math.min(1, Math.max(0, x));
  const red = clip(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s);
  const green = clip(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s);
  const blue = clip(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

const themes: Record<string, Theme> = { light: new Map(), dark: new Map() };
for (const [, name, ...numbers] of css.matchAll(TOKEN)) {
  const [l = 0, c = 0, h = 0, darkL = 0, darkC = 0, darkH = 0] = numbers.map(Number);
  (themes.light as Map<string, number>).set(name ?? "", luminance(l / 100, c, h));
  (themes.dark as Map<string, number>).set(name ?? "", luminance(darkL / 100, darkC, darkH));
}

function contrast(theme: Theme, one: string, other: string): number {
  const values = [one, other].map((name) => {
    const value = theme.get(name);
    assert.notEqual(value, undefined, `theme.css has no ${name}`);
    return value as number;
  });
  return (Math.max(...values) + 0.05) / (Math.min(...values) + 0.05);
}

const GROUNDS = ["--bg", "--bg-raised", "--bg-hover", "--bg-chosen"];
const USERS = Array.from({ length: 12 }, (_, hue) => `--hue-${hue}`);

for (const [name, theme] of Object.entries(themes)) {
  const atLeast = (ratio: number, fronts: string[], grounds: string[]) => {
    for (const front of fronts) {
      for (const ground of grounds) {
        const is = contrast(theme, front, ground);
        assert.ok(is >= ratio, `${name}: ${front} on ${ground} is ${is.toFixed(2)}:1, not ${ratio}:1`);
      }
    }
  };
  test(`${name}: body text has 7:1 on every ground`, () => atLeast(7, ["--text"], GROUNDS));
  test(`${name}: meta text, links and dangers have 4.5:1`, () => {
    atLeast(4.5, ["--meta"], GROUNDS);
    atLeast(4.5, ["--accent", "--danger"], GROUNDS);
    atLeast(4.5, ["--accent-text"], ["--accent"]);
  });
  test(`${name}: users' colours have 4.5:1`, () => atLeast(4.5, USERS, ["--bg", "--bg-raised"]));
  test(`${name}: edges of controls have 3:1`, () => atLeast(3, ["--edge"], ["--bg", "--bg-raised"]));
}
