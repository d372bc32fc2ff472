// What the machine allows: a handler that reads its arguments once and fills
// its results, as fast as memory takes it, and one that does nothing at all.
//
// limit.py compiles this file. No call that reads and writes these buffers can
// be faster than the better of its ways to store.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cpu/huge_pages.h"
#include "cpu/parallel.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = ::xla::ffi;
using jax_roipool::cpu::kHugePage;

// At any address, over any type.
typedef uint32_t Vector __attribute__((vector_size(64), aligned(1), may_alias));

// The bits of 1.0f. Unlike zero, fresh memory does not hold it already; unlike
// one repeated byte, compilers do not make a call of memset from it.
constexpr uint32_t kWord = 0x3f800000;

void Read(const char* data, size_t bytes) {
  Vector sums[4] = {};
  size_t at = 0;
  for (; at + 256 <= bytes; at += 256) {
    for (int lane = 0; lane < 4; ++lane) {
      sums[lane] += *reinterpret_cast<const Vector*>(data + at + 64 * lane);
    }
  }
  uint32_t rest = 0;
  for (; at < bytes; ++at) rest += static_cast<unsigned char>(data[at]);
  const Vector sum = sums[0] + sums[1] + sums[2] + sums[3] + rest;
  uint32_t total = 0;
  for (int i = 0; i < 16; ++i) total += sum[i];
  asm volatile("" : : "r"(total));  // used, as far as the compiler knows
}

void WriteBytes(char* data, size_t bytes) {
  for (size_t at = 0; at < bytes; ++at) {
    std::memcpy(data + at, reinterpret_cast<const char*>(&kWord) + at % 4, 1);
  }
}

void WritePlain(char* data, size_t bytes) {
  const Vector value = Vector{} + kWord;
  size_t at = 0;
  for (; at + 64 <= bytes; at += 64) {
    *reinterpret_cast<Vector*>(data + at) = value;
  }
  WriteBytes(data + at, bytes - at);
}

// Past the caches. `data` is aligned to 4 bytes.
void WriteStream(char* data, size_t bytes) {
#if defined(__SSE2__)
  const size_t past = reinterpret_cast<uintptr_t>(data) % 64;
  size_t at = past == 0 ? 0 : 64 - past;
  if (at > bytes) at = bytes;
  WriteBytes(data, at);
  for (; at + 64 <= bytes; at += 64) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(data + at),
                        _mm512_set1_epi32(kWord));
#elif defined(__AVX__)
    for (int half = 0; half < 2; ++half) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(data + at + 32 * half),
                          _mm256_set1_epi32(kWord));
    }
#else
    for (int part = 0; part < 4; ++part) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(data + at + 16 * part),
                       _mm_set1_epi32(kWord));
    }
#endif
  }
  WriteBytes(data + at, bytes - at);
  _mm_sfence();
#else
  WritePlain(data, bytes);
#endif
}

// A piece of a buffer, one turn of the loop.
struct Piece {
  char* data;
  size_t bytes;
  bool write;
};

// Cuts a buffer where huge pages meet: two threads that fault the same one in
// wait for each other.
void Cut(void* data, size_t bytes, bool write, std::vector<Piece>* pieces) {
  char* at = static_cast<char*>(data);
  char* const end = at + bytes;
  while (at < end) {
    const size_t past = reinterpret_cast<uintptr_t>(at) % kHugePage;
    const size_t left = static_cast<size_t>(end - at);
    const size_t piece = std::min(kHugePage - past, left);
    pieces->push_back({at, piece, write});
    at += piece;
  }
}

// Reads the first `reads` arguments; the others are results' memory, donated.
ffi::Error Limit(ffi::ThreadPool pool, ffi::RemainingArgs args,
                 ffi::RemainingRets rets, int64_t reads, bool huge_pages,
                 bool stream) {
  std::vector<Piece> pieces;
  size_t total = 0;
  for (int64_t i = 0; i < reads; ++i) {
    const auto arg = args.get<ffi::AnyBuffer>(i);
    if (!arg) return arg.error();
    total += arg->size_bytes();
    Cut(arg->untyped_data(), arg->size_bytes(), false, &pieces);
  }
  for (size_t i = 0; i < rets.size(); ++i) {
    auto ret = rets.get<ffi::AnyBuffer>(i);
    if (!ret) return ret.error();
    void* data = (*ret)->untyped_data();
    const size_t bytes = (*ret)->size_bytes();
    if (huge_pages) jax_roipool::cpu::AdviseHugePages(data, bytes);
    total += bytes;
    Cut(data, bytes, true, &pieces);
  }
  // A thread takes as long to wake up as a thread to go through a megabyte.
  const int64_t helpers = total < (size_t{1} << 20) ? 0 : pool.num_threads();
  jax_roipool::cpu::ParallelFor(
      static_cast<int64_t>(pieces.size()), helpers,
      [&](auto task) { pool.Schedule(std::move(task)); },
      [&](int64_t turn) {
        const Piece& piece = pieces[turn];
        if (!piece.write) {
          Read(piece.data, piece.bytes);
        } else if (stream) {
          WriteStream(piece.data, piece.bytes);
        } else {
          WritePlain(piece.data, piece.bytes);
        }
      });
  return ffi::Error::Success();
}

ffi::Error Nothing(ffi::AnyBuffer, ffi::Result<ffi::AnyBuffer>) {
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_roipool_limit, Limit,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int64_t>("reads")
                                  .Attr<bool>("huge_pages")
                                  .Attr<bool>("stream"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jax_roipool_nothing, Nothing,
    ffi::Ffi::Bind().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());
