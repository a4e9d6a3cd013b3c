// Light, dark, or as the system has it. Kept in localStorage, with the last channel the only things there.

export type Theme = "auto" | "light" | "dark";

const KEY = "hubbub.theme";
const LAST_CHANNEL = "hubbub.channel";

export function theme(): Theme {
  const kept = read(KEY);
  return kept === "light" || kept === "dark" ? kept : "auto";
}

export function setTheme(to: Theme): void {
  write(KEY, to === "auto" ? undefined : to);
  applyTheme();
}

export function applyTheme(): void {
  const now = theme();
  if (now === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = now;
  // What the browser draws around the page.
  for (const meta of document.querySelectorAll<HTMLMetaElement>('meta[name="theme-color"]')) {
    meta.dataset.system ??= meta.media;
    meta.media = now === "auto" ? meta.dataset.system : meta.dataset.system.includes(now) ? "all" : "not all";
  }
}

export function lastChannel(): string | undefined {
  return read(LAST_CHANNEL);
}

export function keepLastChannel(name: string | undefined): void {
  write(LAST_CHANNEL, name);
}

// Storage may be forbidden to the page; then nothing is kept, and nothing breaks.
function read(key: string): string | undefined {
  try {
    return localStorage.getItem(key) ?? undefined;
  } catch {
    return undefined;
  }
}

function write(key: string, value: string | undefined): void {
  try {
    if (value === undefined) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    return;
  }
}
