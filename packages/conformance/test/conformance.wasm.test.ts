import { wasm } from "@fa/backend-wasm";
import { describeConformance } from "./suite.ts";

await describeConformance("wasm, relaxed SIMD", wasm({ simd: "relaxed" }), { runs: 30 });
await describeConformance("wasm, plain SIMD", wasm({ simd: "plain" }));
await describeConformance("wasm, relaxed SIMD, 4 x 8 blocks", wasm({ simd: "relaxed", blockRows: 4 }));
await describeConformance("wasm, plain SIMD, 6 x 8 blocks", wasm({ simd: "plain", blockRows: 6 }));
