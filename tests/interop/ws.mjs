// The peer `ws`, of npm: its input is what `converse` needs, as JSON; its output is the result.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { converse } from "./conversation.mjs";

// Packages lie in a folder of target/, not above this file.
const require = createRequire(`${process.env.NODE_FOLDER}/package.json`);
const { WebSocket } = require("ws");

const settings = JSON.parse(readFileSync(0, "utf8"));
// Everything that it sends is compressed, once that is agreed on.
const options = { perMessageDeflate: { threshold: 0 } };
let pongs = 0;
const open = (address, subprotocols) => {
  const socket = new WebSocket(address, subprotocols, options);
  socket.on("open", () => socket.ping("are you there?"));
  socket.on("pong", (payload) => {
    if (payload.toString() === "are you there?") pongs += 1;
  });
  return socket;
};
const result = await converse({ ...settings, open });
console.log(JSON.stringify({ ...result, pongs }));
