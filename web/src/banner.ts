// What the connection is doing, when it is not simply there. It lies over the messages, so that nothing
// moves when it comes and goes; and it waits a moment, so that a blip shows nothing at all.
import type { ConnectionState, Hubbub } from "@hubbub/client";
import { fill, h, say } from "./dom";
import { explain } from "./words";

const PATIENCE_MS = 800;

export function banner(hubbub: Hubbub): { element: HTMLElement; stop: () => void } {
  const text = h("span", { class: "banner-text" });
  const button = h("button", { type: "button", class: "link" }, "now");
  const element = h("div", { class: "banner", hidden: true }, text, button);
  // The seconds are for the eye; what is read aloud changes only with the state.
  const aloud = h("p", { class: "unseen", role: "status" });
  const whole = h("div", { class: "banner-place" }, element, aloud);
  let timer: ReturnType<typeof setTimeout> | undefined;
  let awaySince: number | undefined;

  button.addEventListener("click", () => {
    if (hubbub.state.state === "disconnected") hubbub.connect();
    else hubbub.retryNow();
  });

  function draw(): void {
    clearTimeout(timer);
    const state = hubbub.state;
    if (state.state === "connected") {
      if (!element.hidden) say(aloud, "Connected again.");
      awaySince = undefined;
      element.hidden = true;
      return;
    }
    awaySince ??= Date.now();
    const patience = awaySince + PATIENCE_MS - Date.now();
    if (patience > 0) {
      timer = setTimeout(draw, patience);
      return;
    }
    const { words, press } = describe(state);
    element.hidden = false;
    element.dataset.state = navigator.onLine ? state.state : "offline";
    say(text, words);
    say(button, press);
    button.hidden = press === "";
    say(aloud, navigator.onLine ? "Reconnecting." : "You are offline.");
    if (state.state === "connecting" && state.retryAt !== undefined) {
      const rest = state.retryAt - Date.now();
      timer = setTimeout(draw, Math.max(50, rest % 1000 || 1000));
    }
  }

  const off = hubbub.on("state", draw);
  addEventListener("offline", draw);
  addEventListener("online", draw);
  draw();
  fill(whole, [element, aloud]);
  return {
    element: whole,
    stop: () => {
      clearTimeout(timer);
      off();
      removeEventListener("offline", draw);
      removeEventListener("online", draw);
    },
  };
}

function describe(state: ConnectionState): { words: string; press: string } {
  if (!navigator.onLine) return { words: "Offline. What you write waits here.", press: "" };
  if (state.state === "disconnected") {
    return { words: state.reason === undefined ? "Not connected." : explain(state.reason), press: "Connect" };
  }
  if (state.state === "connecting" && state.retryAt !== undefined) {
    const seconds = Math.ceil((state.retryAt - Date.now()) / 1000);
    if (seconds > 0) return { words: `Reconnecting in ${seconds} s`, press: "Now" };
  }
  return { words: "Reconnecting…", press: "" };
}
