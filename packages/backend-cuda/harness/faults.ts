/** What goes wrong, and what is hard on lifetimes, on the device itself: each gives the error or the result that it should. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { createAttention, FaError, type Attention, type Tensor } from "@fa/core";
import { cuda } from "../src/index.ts";
import { make, PROBLEMS, runOnce, tensorOf } from "./problems.ts";

const here = fileURLToPath(import.meta.url);
const ADDRESS_OF_NOTHING = 0x10_0000;

const open = (addon: string | undefined): Promise<Attention> => createAttention({ backends: [cuda({ addon })] });

const codeOf = async (work: () => unknown): Promise<string> => {
  try {
    await work();
    return "no error";
  } catch (error) {
    return error instanceof FaError ? error.code : String(error);
  }
};

function expectSame(what: string, got: unknown, expected: unknown): void {
  const [a, b] = [got, expected].map((value) => JSON.stringify(value));
  if (a !== b) throw new Error(`${what}: got ${a?.slice(0, 200)}, expected ${b?.slice(0, 200)}`);
}

/** Results of a few problems, as text. */
async function answers(fa: Attention): Promise<string> {
  const all: string[] = [];
  for (const p of PROBLEMS.filter((_, n) => n % 5 === 0)) {
    const made = await make(fa, p);
    all.push(...(await runOnce(fa, made)).map((bytes) => Buffer.from(bytes).toString("base64")));
    made.dispose();
  }
  return all.join("\n");
}

/** Memory runs out by one large tensor, and by many: typed, nothing lost, and the next call is right. */
async function outOfMemory(addon: string | undefined): Promise<void> {
  const fa = await open(addon);
  const expected = await answers(fa);
  const held = fa.memory().currentBytes;
  expectSame("a tensor of 8 TiB", await codeOf(() => fa.empty({ shape: [2 ** 41] })), "FA_OUT_OF_MEMORY");
  const all: Tensor[] = [];
  const fill = (): void => {
    for (let n = 0; n < 1000; n++) all.push(fa.empty({ shape: [2 ** 30] }));
  };
  expectSame("tensors of 4 GiB until there is no more", await codeOf(fill), "FA_OUT_OF_MEMORY");
  for (const tensor of all.slice(1)) tensor.dispose();
  expectSame("answers when memory has run out", await answers(fa), expected);
  all[0].dispose();
  expectSame("bytes held", fa.memory().currentBytes, held);
  // What is idle is given back before there is too little.
  const chunk = { shape: [2 ** 27] };
  const chunks = [fa.empty(chunk), fa.empty(chunk)];
  for (const tensor of chunks) tensor.dispose();
  fa.empty({ shape: [2 ** 30] }).dispose();
  await fa.dispose();
  expectSame("after dispose", await codeOf(() => fa.empty({ shape: [1] })), "FA_DISPOSED");
}

/** In a process of its own: an illegal access. */
export async function breakContext(addon: string | undefined): Promise<void> {
  const fa = await open(addon);
  const x = await tensorOf(fa, [1, 1, 64, 64], "float32", 1);
  const nowhere = fa.wrap({ pointer: ADDRESS_OF_NOTHING }, { shape: [1, 1, 64, 64] });
  const { out } = await fa.attention(x, nowhere, x);
  const messages: string[] = [];
  const calls: readonly (() => Promise<unknown>)[] = [
    () => out.data(),
    () => fa.sync(),
    () => fa.attention(x, x, x),
    () => x.data(),
  ];
  for (const call of calls)
    await call().catch((error: unknown) => messages.push(`${(error as FaError).code} ${(error as Error).message}`));
  await fa.dispose();
  console.log(JSON.stringify(messages));
}

async function illegalAccess(addon: string | undefined): Promise<void> {
  const main = fileURLToPath(new URL("main.ts", import.meta.url));
  const args = ["--conditions=@fa/source", main, "broken", ...(addon ? ["--addon", addon] : [])];
  const child = spawn(process.execPath, args, { timeout: 60_000, stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.on("data", (text) => (output += text));
  const code = await new Promise((resolve) => child.on("close", resolve));
  expectSame("exit code after an illegal access", code, 0);
  const messages = JSON.parse(output) as string[];
  expectSame("calls that failed", messages.length, 4);
  for (const message of messages) {
    if (!/^FA_BACKEND .*cudaErrorIllegalAddress.*Restart the process/.test(message))
      throw new Error(`after an illegal access: ${message}`);
  }
}

/** Threads, each with an instance of its own, one of which ends without disposing. */
async function workers(addon: string | undefined): Promise<void> {
  const fa = await open(addon);
  const expected = await answers(fa);
  const source = `
    const { parentPort, workerData } = require("node:worker_threads");
    import(workerData.here).then(({ answersOf }) => answersOf(workerData.addon)).then((text) => parentPort.postMessage(text));`;
  const one = (): Promise<string> =>
    new Promise((resolve, reject) => {
      const worker = new Worker(source, { eval: true, workerData: { here, addon } });
      let answer = "";
      worker.on("message", (message: string) => (answer = message));
      worker.on("error", reject);
      worker.on("exit", () => resolve(answer));
    });
  const all = await Promise.all([one(), one(), one(), one()]);
  for (const answer of all) expectSame("answers of a worker", answer === expected, true);
  expectSame("answers after the workers", (await answers(fa)) === expected, true);
  await fa.dispose();
}
export const answersOf = async (addon: string | undefined): Promise<string> => answers(await open(addon));

/** Calls of two instances in turn, results that nobody holds or disposes, collections in between, reads left behind. */
async function lifetimes(addon: string | undefined): Promise<void> {
  const instances = [await open(addon), await open(addon)];
  const inputs = await Promise.all(instances.map((fa) => tensorOf(fa, [2, 2, 200, 64], "bfloat16", 3)));
  const expected = await (await instances[0].attention(inputs[0], inputs[0], inputs[0])).out.data();
  const reads: Promise<unknown>[] = [];
  for (let n = 0; n < 1000; n++) {
    const x = inputs[n % 2];
    const { out } = await instances[n % 2].attention(x, x, x);
    if (n % 3 === 0) reads.push(out.data());
    if (n % 100 === 0) (globalThis as { gc?: () => void }).gc?.();
  }
  for (const values of await Promise.all(reads))
    expectSame("an interleaved call", Buffer.compare(bytesOf(values), bytesOf(expected)), 0);
  const reading = inputs[0].data();
  await instances[0].dispose();
  expectSame("a read under way when its instance is disposed", bytesOf(await reading).length, 2 * 2 * 200 * 64 * 2);
  expectSame("a call after that", await codeOf(() => inputs[0].data()), "FA_DISPOSED");
  await instances[1].dispose();
}

function bytesOf(values: unknown): Buffer {
  const { buffer, byteOffset, byteLength } = values as Uint8Array<ArrayBuffer>;
  return Buffer.from(buffer, byteOffset, byteLength);
}

export const FAULTS = { outOfMemory, illegalAccess, workers, lifetimes } as const;
