import { createAttention, type Attention } from "@fa/core";
import { afterEach, expect, test, vi } from "vitest";
import { wasm } from "../src/index.ts";
import { pool } from "../src/pool.ts";

const shape = [1, 6, 700, 64];
const numbers = (seed: number): Float32Array =>
  Float32Array.from({ length: 6 * 700 * 64 }, (_, n) => Math.sin(n * seed));

const opened: Attention[] = [];
async function open(threads?: number): Promise<Attention> {
  const fa = await createAttention({ backends: [wasm({ threads })] });
  opened.push(fa);
  return fa;
}
afterEach(() => Promise.all(opened.splice(0).map((fa) => fa.dispose())));

async function everything(fa: Attention): Promise<unknown[]> {
  const [q, k, v, dout] = [1, 2, 3, 4].map((seed) => fa.tensor(numbers(seed), { shape }));
  const { out, lse } = await fa.attention(q, k, v, { causal: true, returnLse: true });
  const gradients = await fa.attentionBackward({ q, k, v, out, lse, dout }, { causal: true });
  return Promise.all([out, lse, gradients.dq, gradients.dk, gradients.dv].map((tensor) => tensor.data()));
}

test("the page is isolated, so the default is a thread a core", async () => {
  expect(crossOriginIsolated).toBe(true);
  const fa = await open();
  const cores = Math.min(navigator.hardwareConcurrency, 16);
  expect(fa.backend.device).toContain(cores === 1 ? "one thread" : `${cores} threads`);
});

test("the same bits on one, two and five threads, on workers that are up", async () => {
  const want = await everything(await open(1));
  expect(pool.all()).toHaveLength(0);
  for (const threads of [2, 5]) {
    const fa = await open(threads);
    for (let n = 0; n < 50; n++) {
      expect(await everything(fa)).toEqual(want);
      if (n > 1 && pool.all().length === threads - 1 && pool.all().every(({ ready }) => ready)) break;
    }
    expect(pool.all().map(({ ready }) => ready)).toEqual(Array.from({ length: threads - 1 }, () => true));
    expect(pool.trouble).toBeUndefined();
  }
});

test("the roof is that of all threads, and says so", async () => {
  const { gflops, what } = await (await open(2)).roof();
  expect(gflops).toBeGreaterThan(0);
  expect(what).toMatch(/2 threads$/);
});

test("the page's thread gives way to other events during a call", async () => {
  const fa = await open(2);
  const q = fa.tensor(new Float32Array(8 * 1500 * 64), { shape: [1, 8, 1500, 64] });
  await fa.attention(q, q, q);
  let turns = 0;
  const { port1, port2 } = new MessageChannel();
  port1.addEventListener("message", () => {
    turns++;
    port2.postMessage(undefined);
  });
  port1.start();
  port2.postMessage(undefined);
  const start = performance.now();
  await fa.attention(q, q, q);
  const ms = performance.now() - start;
  port1.close();
  expect(turns).toBeGreaterThan(ms / 50);
});

test("a page that is not isolated gets one thread, and the report says why", async () => {
  vi.stubGlobal("crossOriginIsolated", false);
  const fa = await open(2);
  vi.unstubAllGlobals();
  expect(fa.report[0].reason).toMatch(/one thread, since the page is not cross-origin isolated/);
  expect((await everything(fa)).length).toBe(5);
});
