// Redis as something that loses everything.
import { once } from "node:events";
import { connect } from "node:net";

/** Forgets all that Redis holds. */
export async function emptyRedis(url) {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port || 6379), hostname);
  socket.write("FLUSHALL\r\n");
  const [answer] = await once(socket, "data");
  socket.destroy();
  if (!answer.toString().startsWith("+OK")) throw new Error(`Redis was not emptied: ${answer}`);
}
