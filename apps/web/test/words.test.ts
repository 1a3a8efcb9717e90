import { describe, expect, test } from "vitest";
import { choiceIn, searchOf } from "../src/choice.ts";
import { thisMachine } from "../src/machine.ts";
import { lookAround, type Scope } from "../src/work/abilities.ts";
import { addressIn } from "../tools/serve.ts";

describe("what a browser lacks is said in words, with how to get it", () => {
  const adapter = {
    info: { vendor: "acme", architecture: "one", device: "", description: "" },
    features: new Set(["subgroups"]),
    limits: { maxBufferSize: 2 ** 30 },
  } as unknown as GPUAdapter;
  const gpu = { requestAdapter: async () => adapter };
  const isolated = { crossOriginIsolated: true, SharedArrayBuffer, Float16Array: Float32Array };
  const all: Scope = { ...isolated, navigator: { gpu, hardwareConcurrency: 8 } };
  const look = async (scope: Scope, isSoftware = false) => {
    const { list, gpu: facts } = await lookAround({ isSoftware }, scope);
    return { facts, of: (title: string) => list.find((ability) => ability.title === title)! };
  };

  test("nothing is missing where all is there", async () => {
    const { of, facts } = await look(all);
    expect(of("WebGPU")).toEqual({ title: "WebGPU", state: "yes", what: "acme one" });
    expect(of("Threads")).toMatchObject({ state: "yes", what: expect.stringMatching(/8 cores/) });
    expect(of("Float16Array").state).toBe("yes");
    expect(facts!.features.find(({ name }) => name === "subgroups")!.there).toBe(true);
    expect(facts!.features.find(({ name }) => name === "shader-f16")!.there).toBe(false);
    expect(facts!.limits[0]).toEqual({ name: "maxBufferSize", value: 2 ** 30, least: 2 ** 28 });
  });

  test.each<[string, Scope, RegExp, RegExp]>([
    ["no navigator.gpu", { ...isolated, navigator: {} }, /has no WebGPU/, /current Chrome/],
    ["no secure context", { navigator: {}, isSecureContext: false }, /secure contexts/, /https/],
    ["no adapter", { navigator: { gpu: { requestAdapter: async () => null } } }, /no adapter/, /driver/],
    [
      "an adapter that fails",
      { navigator: { gpu: { requestAdapter: () => Promise.reject(new Error("lost")) } } },
      /no adapter/,
      /driver/,
    ],
  ])("WebGPU: %s", async (_, scope, what, fix) => {
    const { of, facts } = await look(scope);
    expect(of("WebGPU")).toMatchObject({ state: "no", what: expect.stringMatching(what) });
    expect(of("WebGPU").fix).toMatch(fix);
    expect(facts).toBeUndefined();
  });

  test("a software adapter is told apart", async () => {
    expect((await look(all, true)).of("WebGPU")).toMatchObject({
      state: "partly",
      what: expect.stringMatching(/software adapter, acme one/),
    });
  });

  test("no isolation is one thread, no Float16Array is raw bits", async () => {
    const { of } = await look({ ...all, crossOriginIsolated: false, Float16Array: undefined });
    expect(of("Threads")).toMatchObject({ state: "no", fix: expect.stringMatching(/Cross-Origin-Opener-Policy/) });
    expect(of("Float16Array")).toMatchObject({ state: "no", what: expect.stringMatching(/Uint16Array/) });
  });
});

describe("the address of a choice", () => {
  test.each([
    ["", { runs: 4 }],
    [
      "?backends=wasm,reference&capabilities=causal,mask&runs=2",
      { backends: ["wasm", "reference"], capabilities: ["causal", "mask"], runs: 2 },
    ],
    ["?capabilities=causal", { capabilities: ["causal"], runs: 4 }],
  ])("%s reads and writes", (search, choice) => {
    expect(choiceIn(search)).toEqual(choice);
    expect(searchOf(choiceIn(search))).toBe(search);
  });

  test("what cannot be is left out", () => {
    expect(choiceIn("?backends=cuda&runs=0")).toEqual({ backends: [], runs: 4 });
    expect(choiceIn("?runs=1e9").runs).toBe(4);
  });
});

describe("the machine of a results file", () => {
  test("brands are taken where a browser tells them, without the placeholder", () => {
    const brands = [
      { brand: "Chromium", version: "150" },
      { brand: "Not;A=Brand", version: "8" },
      { brand: "Google Chrome", version: "150" },
    ];
    const from = { userAgent: "", hardwareConcurrency: 2, userAgentData: { platform: "Linux", brands } };
    expect(thisMachine("", from)).toEqual({
      name: "Google Chrome 150 on Linux, 2 cores",
      cpu: "not told by browsers",
      cores: 2,
      platform: "Linux",
      runtime: "Google Chrome 150",
    });
    expect(thisMachine("mine", from).name).toBe("mine");
  });

  test.each([
    ["Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0", "Firefox 150.0 on Linux, 1 core"],
    [
      "Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1",
      "Safari 26.0 on iPhone, 1 core",
    ],
    ["something else", "an unknown browser on an unknown system, 1 core"],
  ])("%s", (userAgent, name) => {
    expect(thisMachine("", { userAgent }).name).toBe(name);
  });
});

describe("npm run web's arguments", () => {
  test("loopback unless told otherwise", () => {
    expect(addressIn([])).toEqual({ host: "127.0.0.1", port: 4173 });
    expect(addressIn(["--port", "0", "--host", "::1"])).toEqual({ host: "::1", port: 0 });
    expect(addressIn(["--help"])).toBe("help");
  });

  test.each([
    [["--port", "65536"], /--port must be a whole number from 0 to 65535; got 65536/],
    [["--port", "1.5"], /got 1.5/],
    [["--prot", "1"], /--prot/],
    [["page"], /page/],
  ])("%o is refused", (argv, complaint) => {
    expect(() => addressIn(argv)).toThrow(complaint);
  });
});
