import { describe, expect, test } from "vitest";
import type { Backend, BackendProvider } from "../src/backend.ts";
import { countFlops, createAttention, measuredProblem, reference } from "../src/index.ts";
import { measuredLadder } from "../src/measure.ts";
import { newRecording, recording } from "./recording.ts";

const device = "pure TypeScript, float64";

/** The reference under another name, with some of its methods changed, and a record of what it was asked. It tells no identity. */
function candidate(name: string, change: (backend: Backend) => Partial<Backend> = () => ({})) {
  const record = newRecording();
  const anonymous = { ...reference(), name, probe: async () => ({ ok: true, device }) };
  const provider = recording(anonymous, record, (backend) => ({ name, ...change(backend) }));
  return { provider, record };
}

const refusing = (name: string, reason?: string): BackendProvider => ({
  name,
  probe: async () => ({ ok: false, reason }),
  open: () => Promise.reject(new Error("opened though its probe failed")),
});

describe("preference: the first whose probe passes", () => {
  test("is taken; those before it say why not, those after it were not tried", async () => {
    const second = candidate("second");
    const third = candidate("third");
    const backends = [refusing("first", "no driver"), second.provider, third.provider];
    await using fa = await createAttention({ backends });
    expect(fa.backend.name).toBe("second");
    expect(fa.report).toEqual([
      { name: "first", ok: false, taken: false, reason: "no driver", device: undefined },
      { name: "second", ok: true, taken: true, reason: "the first that works", device: "pure TypeScript, float64" },
      { name: "third", ok: false, taken: false, reason: "not tried: second comes before it and works" },
    ]);
    expect(third.record).toMatchObject({ probes: 0, opens: 0 });
  });

  test("whose probe has a remark, says it", async () => {
    const remark: BackendProvider = { ...reference(), probe: async () => ({ ok: true, reason: "one thread only" }) };
    await using fa = await createAttention({ backends: [remark] });
    expect(fa.report).toMatchObject([{ taken: true, reason: "one thread only" }]);
  });

  test.each<[string, BackendProvider, string]>([
    ["its probe throws", { ...refusing("x"), probe: () => Promise.reject(new Error("probe broke")) }, "probe broke"],
    [
      "its probe throws before it returns a promise",
      {
        ...refusing("x"),
        probe() {
          throw new Error("probe broke");
        },
      },
      "probe broke",
    ],
    ["its probe throws what is no Error", { ...refusing("x"), probe: () => Promise.reject("just so") }, "just so"],
    ["its probe fails without a reason", refusing("x"), "its probe failed without a reason"],
    [
      "opening it fails",
      { ...refusing("x"), probe: async () => ({ ok: true }), open: () => Promise.reject(new Error("device is busy")) },
      "device is busy",
    ],
  ])("moves on to the next when %s", async (_, broken, reason) => {
    await using fa = await createAttention({ backends: [broken, reference()] });
    expect(fa.backend.name).toBe("reference");
    expect(fa.report).toMatchObject([
      { name: "x", ok: false, taken: false, reason },
      { name: "reference", ok: true, taken: true },
    ]);
  });

  test("the report and the facts about the back end cannot be changed", async () => {
    await using fa = await createAttention({ backends: [reference()] });
    expect([Object.isFrozen(fa.report), Object.isFrozen(fa.backend)]).toEqual([true, true]);
  });
});

describe("measured: the fastest on the problem", () => {
  const problem = { B: 1, H: 1, Sq: 8, D: 4 } as const;
  const slowedBy = (ms: number) => (backend: Backend) => ({
    async run(...args: Parameters<Backend["run"]>) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      await backend.run(...args);
    },
  });

  test("is taken wherever it stands in the list, and the others are disposed", async () => {
    for (const [first, last] of [
      [1, 25],
      [25, 1],
    ] as const) {
      const one = candidate("one", slowedBy(first));
      const two = candidate("two", slowedBy(last));
      await using fa = await createAttention({ backends: [one.provider, two.provider], select: "measured", problem });
      const fast = first < last ? "one" : "two";
      expect(fa.backend.name).toBe(fast);
      for (const { name, ok, taken, reason, ms } of fa.report) {
        expect({ ok, taken }).toEqual({ ok: true, taken: name === fast });
        expect(reason).toBe(`${name === fast ? "the fastest: " : ""}${ms?.toFixed(3)} ms`);
      }
      expect([one.record.disposals, two.record.disposals]).toEqual(fast === "one" ? [0, 1] : [1, 0]);
      expect([one.record.live.size, two.record.live.size][fast === "one" ? 0 : 1]).toBe(0);
    }
  });

  /** Changes the first element of every result. */
  const wrongBy = (difference: number) => (backend: Backend) => ({
    async read(...args: Parameters<Backend["read"]>) {
      const bytes = await backend.read(...args);
      new Float32Array(bytes.buffer)[0] += difference;
      return bytes;
    },
  });

  test.each([
    ["off", 0.01],
    ["NaN", NaN],
    ["infinite", Infinity],
  ])("one whose result is %s is dropped, however fast", async (_, difference) => {
    const right = candidate("right", slowedBy(10));
    const wrong = candidate("wrong", wrongBy(difference));
    await using fa = await createAttention({ backends: [right.provider, wrong.provider], select: "measured", problem });
    expect(fa.report).toMatchObject([
      { name: "right", taken: true },
      { name: "wrong", ok: false, taken: false, reason: expect.stringContaining("its result is off by") },
    ]);
    expect(wrong.record.disposals).toBe(1);
  });

  test("one that gives NaN is dropped though nothing came before it to compare with", async () => {
    const wrong = candidate("wrong", wrongBy(NaN));
    await using fa = await createAttention({ backends: [wrong.provider, reference()], select: "measured", problem });
    expect(fa.report).toMatchObject([{ ok: false }, { name: "reference", taken: true }]);
  });

  test("one that cannot run the problem says why; one that breaks, with what", async () => {
    const small = candidate("small", (backend) => ({ capabilities: { ...backend.capabilities, maxHeadDim: 2 } }));
    const broken = candidate("broken", () => ({ run: () => Promise.reject(new Error("shader lost")) }));
    const backends = [small.provider, refusing("absent", "not installed"), broken.provider, reference()];
    await using fa = await createAttention({ backends, select: "measured", problem });
    expect(fa.report).toMatchObject([
      { name: "small", ok: false, taken: false, reason: "takes head dims 1 to 2, not 4" },
      { name: "absent", ok: false, taken: false, reason: "not installed" },
      { name: "broken", ok: false, taken: false, reason: "shader lost" },
      { name: "reference", ok: true, taken: true },
    ]);
    expect([small.record.disposals, broken.record.disposals]).toEqual([1, 1]);
  });

  test("options and dtype of the problem are what is measured", async () => {
    const dtypes: string[] = [];
    const spy = candidate("spy", (backend) => ({
      run(plan, bindings) {
        if (plan.problem.op === "attention")
          dtypes.push(`${plan.problem.dtype} ${plan.problem.layout} ${plan.problem.program.length}`);
        return backend.run(plan, bindings);
      },
    }));
    const halves = { ...problem, dtype: "bfloat16", options: { causal: true, layout: "bshd" } } as const;
    await using fa = await createAttention({ backends: [spy.provider], select: "measured", problem: halves });
    expect(fa.report).toMatchObject([{ taken: true }]);
    expect(new Set(dtypes)).toEqual(new Set(["bfloat16 bshd 2"]));
  });

  test("a problem with nothing in it is measured too", async () => {
    await using fa = await createAttention({
      backends: [reference()],
      select: "measured",
      problem: { ...problem, Sq: 0 },
    });
    expect(fa.report).toMatchObject([{ taken: true, ms: expect.any(Number) }]);
  });

  test("a malformed problem is refused before anything is opened", async () => {
    const { provider, record } = candidate("x");
    const create = createAttention({ backends: [provider], select: "measured", problem: { D: 257 } });
    await expect(create).rejects.toMatchObject({ code: "FA_UNSUPPORTED" });
    expect(record).toMatchObject({ probes: 0, opens: 0 });
  });
});

describe("measured: bounded", () => {
  const large = { B: 2, H: 8, Hkv: 2, Sq: 512, Skv: 2048, D: 64 } as const; // 4.3 GFLOP, a minute of the reference

  test("a ladder of parts leads from few operations to the problem itself", () => {
    const ladder = measuredLadder(large);
    expect(ladder.at(-1)).toEqual(measuredProblem(large));
    const flops = ladder.map(countFlops);
    expect(flops[0]).toBeLessThanOrEqual(2e6);
    for (let n = 1; n < flops.length; n++) expect(flops[n]).toBe(2 * flops[n - 1]);
    for (const { H, Hkv } of ladder) expect(H / Hkv).toBe(4);
  });

  test.each([
    ["sizes that are odd", { B: 3, H: 9, Hkv: 3, Sq: 77, Skv: 1001, D: 19, Dv: 5 }],
    ["more rows than keys", { H: 1, Sq: 5000, Skv: 3, D: 256 }],
    ["one long row", { H: 1, Sq: 1, Skv: 100_000, D: 256 }],
    ["one huge window", { H: 1, Sq: 4000, options: { causal: true, window: [3000, 0] } }],
    ["nothing", { Skv: 0 }],
  ] as const)("a ladder for %s", (_, problem) => {
    const ladder = measuredLadder(problem);
    const flops = ladder.map(countFlops);
    expect(flops).toEqual(flops.toSorted((a, b) => a - b));
    expect(flops[0]).toBeLessThanOrEqual(2e6);
  });

  test("who would take long is timed on a part of it, and the report says so", async () => {
    const { provider, record } = candidate("slow");
    const start = performance.now();
    await using fa = await createAttention({ backends: [provider], select: "measured", problem: large });
    expect(performance.now() - start).toBeLessThan(5000);
    const [{ taken, ms, reason }] = fa.report;
    expect(taken).toBe(true);
    expect(ms).toBeGreaterThan(1000);
    expect(reason).toMatch(/^the fastest: about [\d.e+]+ ms, from [\d.]+ % of the problem$/);
    expect(record.live.size).toBe(0);
  });

  test("small problems and large ones may take different candidates", async () => {
    // A GPU's ways: a call costs 4 ms whatever it is, and the work next to nothing.
    const gpu = candidate("gpu", (backend) => ({
      async run(plan, bindings) {
        await new Promise((resolve) => setTimeout(resolve, 4));
        if (countFlops(plan.problem) < 3e6) await backend.run(plan, bindings);
      },
      async read(buffer) {
        return buffer.bytes > 70_000 ? new Uint8Array(buffer.bytes) : backend.read(buffer);
      },
    }));
    const backends = [gpu.provider, reference()];
    await using small = await createAttention({ backends, select: "measured", problem: { H: 1, Sq: 8, D: 8 } });
    await using long = await createAttention({ backends, select: "measured", problem: large });
    expect([small.backend.name, long.backend.name]).toEqual(["reference", "gpu"]);
  });
});

describe("measured: remembered", () => {
  const problem = { B: 1, H: 1, Sq: 8, D: 4 } as const;
  let names = 0;

  /** Candidates that nobody has measured yet in this process, whose second is the faster. */
  function pair() {
    names++;
    const [slow, fast] = [`slow ${names}`, `fast ${names}`].map((name) => {
      const delay = name.startsWith("slow") ? 10 : 0;
      const made = candidate(name, (backend) => ({
        async run(plan, bindings) {
          if (delay > 0) await new Promise((resolve) => setTimeout(resolve, delay));
          await backend.run(plan, bindings);
        },
      }));
      return { ...made, identity: "1.0" };
    });
    const identified = ({ provider, identity }: typeof slow, on = device): BackendProvider => ({
      ...provider,
      probe: async () => ({ ...(await provider.probe()), device: on, identity }),
    });
    return { slow, fast, identified, backends: () => [identified(slow), identified(fast)] };
  }

  const item = (times: readonly object[]): string =>
    JSON.stringify({ date: "x", candidates: times.map((time) => ({ name: "a", reason: "b", ...time })) });

  function newStore() {
    const kept = new Map<string, string>();
    const store = {
      getItem: (key: string) => kept.get(key) ?? null,
      setItem: (key: string, value: string) => void kept.set(key, value),
    };
    return { kept, store };
  }

  test("the second time nobody is timed, and only the fastest is opened", async () => {
    const { slow, fast, backends } = pair();
    await using first = await createAttention({ backends: backends(), select: "measured", problem });
    const runs = [slow.record.runs, fast.record.runs];
    await using second = await createAttention({
      backends: backends(),
      select: "measured",
      problem: { ...problem, Sq: 7 },
    });
    expect([first.backend.name, second.backend.name]).toEqual([fast.provider.name, fast.provider.name]);
    expect([slow.record.runs, fast.record.runs]).toEqual(runs);
    expect([slow.record.opens, fast.record.opens]).toEqual([1, 2]);
    const date = "\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z";
    expect(second.report).toMatchObject([
      {
        ok: true,
        taken: false,
        ms: first.report[0].ms,
        reason: expect.stringMatching(`^[\\d.]+ ms, measured ${date}$`),
      },
      {
        ok: true,
        taken: true,
        ms: first.report[1].ms,
        reason: expect.stringMatching(`^the fastest: [\\d.]+ ms, measured ${date}$`),
      },
    ]);
  });

  test("another class of problems, another device or another version is measured anew", async () => {
    const { slow, fast, identified, backends } = pair();
    const measured = { select: "measured", problem } as const;
    await (await createAttention({ ...measured, backends: backends() })).dispose();
    await (await createAttention({ ...measured, backends: backends(), problem: { ...problem, Sq: 9 } })).dispose();
    await (
      await createAttention({ ...measured, backends: [identified(slow, "another GPU"), identified(fast)] })
    ).dispose();
    fast.identity = "1.1";
    await (await createAttention({ ...measured, backends: backends() })).dispose();
    expect(slow.record.opens).toBe(4);
  });

  test("a store is given what was measured, and asked where this process knows nothing", async () => {
    const { kept, store } = newStore();
    const one = pair();
    const measured = { select: "measured", problem, store } as const;
    await (await createAttention({ ...measured, backends: one.backends() })).dispose();
    expect([...kept.keys()]).toEqual([expect.stringContaining("| B1 H1 Hkv1 Sq8 Skv8 D4 Dv4 float32 bhsd scale")]);
    // What another process left: the same under the names of candidates that this one has not seen.
    const other = pair();
    for (const [key, value] of kept) {
      const renamed = (text: string): string => text.replaceAll(/(slow|fast) \d+/g, `$1 ${names}`);
      kept.set(renamed(key), renamed(value));
    }
    await using fa = await createAttention({ ...measured, backends: other.backends() });
    expect(fa.backend.name).toBe(`fast ${names}`);
    expect([other.slow.record.opens, other.fast.record.opens]).toEqual([0, 1]);
  });

  test.each([
    ["is cut short", () => `{"date":"2026-`],
    ["is something else", () => `{"candidates":[{"name":7}],"date":"x"}`],
    ["names fewer candidates", () => `{"candidates":[],"date":"x"}`],
    ["has a time that is no number", () => item([{ ms: "fast" }, { ms: 1 }])],
    ["has no time at all", () => item([{}, {}])],
    [
      "throws",
      () => {
        throw new Error("not allowed here");
      },
    ],
  ])("a store whose item %s is measured past", async (_, getItem) => {
    const { slow, backends } = pair();
    const store = { getItem, setItem: () => {} };
    await using fa = await createAttention({ backends: backends(), select: "measured", problem, store });
    expect(fa.backend.name).toBe(`fast ${names}`);
    expect(slow.record.opens).toBe(1);
  });

  test("a store that is full costs nothing but a remark", async () => {
    const store = { getItem: () => null, setItem: () => Promise.reject(new Error("quota exceeded")) };
    await using fa = await createAttention({ backends: pair().backends(), select: "measured", problem, store });
    expect(fa.report[1].reason).toMatch(/^the fastest: [\d.]+ ms; the store did not take it: quota exceeded$/);
  });

  test("a fastest that no longer opens is measured past", async () => {
    const { slow, fast, identified, backends } = pair();
    const measured = { select: "measured", problem } as const;
    await (await createAttention({ ...measured, backends: backends() })).dispose();
    const lost = { ...identified(fast), open: () => Promise.reject(new Error("device lost")) };
    await using fa = await createAttention({ ...measured, backends: [identified(slow), lost] });
    expect(fa.report).toMatchObject([{ taken: true }, { ok: false, reason: "device lost" }]);
  });

  test("a candidate that does not tell what its speed depends on keeps all from being remembered", async () => {
    const { slow, identified, fast } = pair();
    const backends = [identified(slow), { ...fast.provider, probe: async () => ({ ok: true }) }];
    for (let n = 0; n < 2; n++) await (await createAttention({ backends, select: "measured", problem })).dispose();
    expect(slow.record.opens).toBe(2);
  });
});
