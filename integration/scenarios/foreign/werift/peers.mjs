// Two peers of werift in one process that may use nothing but the relay: a megabyte over a data channel, there and back.
//
//   node peers.mjs URL PAYLOAD_BYTES
//
// Prints one line, a JSON object, and ends with 0 when what came back is what was sent.
import { createHash, randomBytes } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(process.cwd() + "/");
const { RTCPeerConnection } = require("werift");

const [url, bytes] = [process.argv[2], Number(process.argv[3])];
const CHUNK = 16 * 1024;
const sum = (data) => createHash("sha256").update(data).digest("hex");

function peer() {
  return new RTCPeerConnection({
    iceTransportPolicy: "relay",
    iceServers: [{ urls: url, username: "alice", credential: "wonderland" }],
    turnTlsOptions: { rejectUnauthorized: false },
  });
}

const [left, right] = [peer(), peer()];
const candidates = [];
for (const [from, to] of [[left, right], [right, left]]) {
  from.onicecandidate = ({ candidate }) => {
    if (candidate) {
      candidates.push(candidate.candidate);
      to.addIceCandidate(candidate);
    }
  };
}

// The far side sends back what it gets.
right.ondatachannel = ({ channel }) => {
  channel.onmessage = ({ data }) => channel.send(Buffer.from(data));
};

const channel = left.createDataChannel("bulk");
const sent = randomBytes(bytes);
const returned = new Promise((resolve) => {
  const got = [];
  let length = 0;
  channel.onmessage = ({ data }) => {
    got.push(Buffer.from(data));
    length += data.length;
    if (length >= bytes) resolve(Buffer.concat(got));
  };
});
channel.onopen = () => {
  for (let at = 0; at < bytes; at += CHUNK) channel.send(sent.subarray(at, at + CHUNK));
};

await left.setLocalDescription(await left.createOffer());
await right.setRemoteDescription(left.localDescription);
await right.setLocalDescription(await right.createAnswer());
await left.setRemoteDescription(right.localDescription);

const back = await returned;
console.log(JSON.stringify({
  bytes: back.length,
  same: sum(back) === sum(sent),
  kinds: [...new Set(candidates.map((line) => / typ (\w+)/.exec(line)[1]))],
}));
process.exit(sum(back) === sum(sent) ? 0 : 1);
