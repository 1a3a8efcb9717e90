// Which workgroup of the whole grid this one is: the launcher cuts large grids into several dispatches.
// Every uniform struct begins with `launch: Launch`.

struct Launch {
  // Workgroups of the grid that came in earlier dispatches.
  first: u32,
  // Workgroups of the grid up to the end of this dispatch; those beyond it have nothing to do.
  end: u32,
  // Structs in uniforms are counted in 16 bytes.
  unused: vec2u,
}

fn workgroup_index(launch: Launch, id: vec3u, count: vec3u) -> u32 {
  return launch.first + id.y * count.x + id.x;
}
