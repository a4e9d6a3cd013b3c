// What a peer in JavaScript says to the server. Uses nothing but fetch and a WebSocket as browsers
// have them, and nothing from outside of the function: it runs in Node, and as text in a page.

// `open` makes a WebSocket from an address and a list of subprotocols. Throws when anything is not as
// it should be; what depends on the server's flags is in the result, for the caller to judge.
export async function converse({ host, username, password, channel, bodies, deadlineMs, open }) {
  const check = (holds, what) => {
    if (!holds) throw new Error(what);
  };
  const post = async (path, body) => {
    const answer = await fetch(`http://${host}${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    return { status: answer.status, body: await answer.json() };
  };
  const connect = (subprotocols) => {
    const socket = open(`ws://${host}/v1/ws`, subprotocols);
    const waiting = [];
    const arrived = [];
    const arrive = (what) => {
      const waiter = waiting.shift();
      if (waiter) waiter(what);
      else arrived.push(what);
    };
    socket.onopen = () => arrive({ opened: true });
    socket.onmessage = ({ data }) => arrive({ data });
    socket.onclose = ({ code, reason, wasClean }) => arrive({ closed: { code, reason, wasClean } });
    socket.onerror = () => {};
    const next = () =>
      new Promise((resolve, reject) => {
        if (arrived.length > 0) return resolve(arrived.shift());
        const late = setTimeout(() => reject(new Error("nothing came in time")), deadlineMs);
        waiting.push((what) => {
          clearTimeout(late);
          resolve(what);
        });
      });
    return { socket, next };
  };

  const signedUp = await post("/v1/accounts", { username, password });
  check(signedUp.status === 201, `no account: ${JSON.stringify(signedUp)}`);
  const login = await post("/v1/token", { grant_type: "password", username, password });
  check(login.status === 200, `no token: ${JSON.stringify(login)}`);
  const bearer = btoa(login.body.access_token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

  const { socket, next } = connect(["hubbub.v1.json", `hubbub.bearer.${bearer}`]);
  check((await next()).opened, "the connection did not open");
  const { protocol, extensions } = socket;
  check(protocol === "hubbub.v1.json", `the subprotocol is ${protocol}`);
  const envelope = async () => {
    const { data, closed } = await next();
    check(typeof data === "string", `no text came: ${JSON.stringify(closed)}`);
    return JSON.parse(data);
  };
  check((await envelope()).welcome.name === username, "no welcome");

  socket.send(JSON.stringify({ id: 1, createChannel: { channelName: channel } }));
  check((await envelope()).reply.channel, "no channel");
  socket.send(JSON.stringify({ id: 2, subscribe: { channelName: channel } }));
  check((await envelope()).reply.subscribed, "no subscription");

  // All at once: what comes back is in the same order, whatever was gathered into one frame.
  bodies.forEach((body, index) => {
    socket.send(JSON.stringify({ id: index + 3, publish: { channelName: channel, body } }));
  });
  const received = [];
  const replied = [];
  while (received.length < bodies.length || replied.length < bodies.length) {
    const { reply, messages } = await envelope();
    if (reply) {
      check(reply.published, `refused: ${JSON.stringify(reply)}`);
      replied.push([reply.id, Number(reply.published.sequence)]);
    } else {
      check(Number(messages.firstSequence) === received.length + 1, "a gap or a repeat");
      received.push(...messages.records.map((record) => record.body));
    }
  }
  bodies.forEach((body, index) => {
    check(received[index] === body, `message ${index + 1} is another`);
    check(replied[index][0] === index + 3, `reply ${index + 1} is another's`);
    check(replied[index][1] === index + 1, `reply ${index + 1} has another sequence`);
  });
  socket.close(1000, "bye");
  const { closed } = await next();
  check(closed.code === 1000 && closed.wasClean, `the end was ${JSON.stringify(closed)}`);

  // The server closes, with a code that the page can read.
  const wrong = connect(["hubbub.v1.json", `hubbub.bearer.${bearer}`]);
  check((await wrong.next()).opened, "the second connection did not open");
  await wrong.next();
  wrong.socket.send(new Uint8Array([1, 2, 3]));
  const refused = (await wrong.next()).closed;
  check(refused?.code === 1003 && refused.wasClean, `binary ended as ${JSON.stringify(refused)}`);

  return { extensions, received: received.length };
}
