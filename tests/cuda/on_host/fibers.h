// Blocks of CUDA threads on one thread of the host, each a fiber.
//
// A fiber runs until it waits: at a barrier of its block or for the lanes of
// its warp. Which one goes on then is drawn from a seeded generator, and so is
// the order of the blocks: a result that depends on either is a race. Shared
// memory is full of garbage when a block begins, and what a block writes beyond
// its end is noticed. A thread that waits for others which will never come is a
// failure, not a hang.

#ifndef JAX_ROIPOOL_TESTS_CUDA_ON_HOST_FIBERS_H_
#define JAX_ROIPOOL_TESTS_CUDA_ON_HOST_FIBERS_H_

#include <cstdint>
#include <functional>
#include <string>

namespace jax_roipool::cuda_on_host {

constexpr int kWarp = 32;

struct Index {
  unsigned x;
};

// Of the running fiber.
Index ThreadIndex();
Index BlockIndex();
Index GridSize();
unsigned char* SharedMemory();

// Waits for all threads of the block.
void WaitForBlock();

// Waits for the lanes of `mask` to come to the same `operation`, each with a
// value; gives the values of all, by lane.
const uint64_t* WaitForWarp(int operation, unsigned mask, uint64_t value);

// Runs `thread` for every thread of every block. Empty, or what went wrong.
std::string Run(int64_t blocks, int threads, int64_t shared_bytes,
                const std::function<void()>& thread);

// Each call of a handler has its turn: that and the seed decide the order of
// fibers and blocks from here on.
void Seed(uint64_t seed);
uint64_t NextTurn();
// Blocks run so far.
int64_t BlocksRun();

}  // namespace jax_roipool::cuda_on_host

#endif  // JAX_ROIPOOL_TESTS_CUDA_ON_HOST_FIBERS_H_
