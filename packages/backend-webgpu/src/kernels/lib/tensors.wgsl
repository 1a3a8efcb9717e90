// Bindings of the tensors of a forward pass; where those that not every call has lie, the kernel's params say.

@group(0) @binding(1) var<storage, read> q: array<Storage>;
@group(0) @binding(2) var<storage, read> k: array<Storage>;
@group(0) @binding(3) var<storage, read> v: array<Storage>;
//#if OUT_WORDS == 4
@group(0) @binding(4) var<storage, read_write> out: array<vec4u>;
//#elif OUT_WORDS == 2
@group(0) @binding(4) var<storage, read_write> out: array<vec2u>;
//#elif OUT_WORDS == 1
@group(0) @binding(4) var<storage, read_write> out: array<u32>;
//#else
@group(0) @binding(4) var<storage, read_write> out: array<atomic<u32>>;
//#endif
//#if LSE
@group(0) @binding(${LSE_BINDING}) var<storage, read_write> lse: array<u32>;
//#endif
//#if BIAS
@group(0) @binding(${BIAS_BINDING}) var<storage, read> bias: array<u32>;
//#endif
//#if MASK
@group(0) @binding(${MASK_BINDING}) var<storage, read> mask: array<u32>;
//#endif
//#if ALIBI && SINKS
@group(0) @binding(${HEAD_BINDING}) var<storage, read> head_terms: array<u32>;
//#elif ALIBI
@group(0) @binding(${HEAD_BINDING}) var<storage, read> alibi_slopes: array<u32>;
//#elif SINKS
@group(0) @binding(${HEAD_BINDING}) var<storage, read> sinks: array<u32>;
//#endif
