import { wasm } from "@fa/backend-wasm";
import { describeConformance } from "./suite.ts";

await describeConformance("wasm, relaxed SIMD", wasm({ simd: "relaxed" }), { runs: 30 });
await describeConformance("wasm, plain SIMD", wasm({ simd: "plain" }));
