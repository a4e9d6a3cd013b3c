// A broadcaster on `ws`, by the example in its README: what anybody sends, everybody gets, the
// sender included.
//
//     node ws.mjs HOST PORT
import { WebSocket, WebSocketServer } from 'ws';

const [host, port] = process.argv.slice(2);

const server = new WebSocketServer({ host, port: Number(port), perMessageDeflate: false });
server.on('connection', (socket) => {
  socket.on('error', console.error);
  socket.on('message', (data, isBinary) => {
    server.clients.forEach((client) => {
      if (client.readyState === WebSocket.OPEN) {
        client.send(data, { binary: isBinary });
      }
    });
  });
});
