// A broadcaster on uWebSockets: what anybody sends, everybody gets, the sender included.
//
//     node uws.mjs HOST PORT
import uWS from 'uwebsockets';

const [host, port] = process.argv.slice(2);
// Nobody is to be dropped or disconnected: what is missing is the broadcaster's fault.
const NO_BOUND = 1024 * 1024 * 1024;

const app = uWS.App();
app.ws('/*', {
  compression: uWS.DISABLED,
  maxPayloadLength: 16 * 1024 * 1024,
  maxBackpressure: NO_BOUND,
  open: (socket) => socket.subscribe('chat'),
  message: (socket, message, isBinary) => app.publish('chat', message, isBinary),
});
app.listen(host, Number(port), (listening) => {
  if (!listening) throw new Error(`${host}:${port} cannot be listened on`);
});
