// The fuzz target without a fuzzer: the corpus, then inputs from a generator.
//
//   fuzz [--executions N] [--seed S] [--from I] [FILE ...]
//
// Runs the inputs of the files and then others, some made anew and some from
// those with changes, until N ops have reached a kernel. Input I of seed
// S is the same on every machine. What makes the target fail is written to the
// file fuzz-failure in the working folder: `fuzz --executions 0 fuzz-failure`
// runs it again.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "call.h"
#include "fuzz.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)())
    __attribute__((weak));

namespace jax_roipool::native {
namespace {

using Input = std::vector<uint8_t>;

const Input* running = nullptr;
long long running_number = -1;

// Only what a signal handler may do.
void KeepInput() {
  const Input* input = running;
  running = nullptr;
  if (input == nullptr) return;
  const int file = open("fuzz-failure", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || write(file, input->data(), input->size()) < 0 ||
      close(file) != 0) {
    return;
  }
  char text[100];
  const int length = std::snprintf(text, sizeof(text),
                                   "input %lld failed; it is in fuzz-failure\n",
                                   running_number);
  if (write(STDERR_FILENO, text, static_cast<size_t>(length)) < 0) return;
}

void OnSignal(int number) {
  KeepInput();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

void RunInput(const Input& input, long long number) {
  running = &input;
  running_number = number;
  LLVMFuzzerTestOneInput(input.data(), input.size());
  running = nullptr;
}

int Digit(char digit) { return digit >= 'a' ? digit - 'a' + 10 : digit - '0'; }

// Lines of hex, an input each, from a file that ends in .txt; any other is one
// input.
std::vector<Input> ReadInputs(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::exit(2);
  }
  if (path.size() < 4 || path.compare(path.size() - 4, 4, ".txt") != 0) {
    return {Input(std::istreambuf_iterator<char>(file),
                  std::istreambuf_iterator<char>())};
  }
  std::vector<Input> inputs;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    Input input;
    for (size_t i = 0; i + 1 < line.size(); i += 2) {
      input.push_back(
          static_cast<uint8_t>(Digit(line[i]) * 16 + Digit(line[i + 1])));
    }
    inputs.push_back(std::move(input));
  }
  return inputs;
}

Input Anew(Random* random) {
  Input input(random->Below(random->Below(4) == 0 ? 700 : 160));
  for (uint8_t& byte : input) byte = static_cast<uint8_t>(random->Below(256));
  // Much of what is drawn is no great help: some bytes are plain more often.
  for (uint32_t i = 0; i < input.size() && random->Below(3) != 0; ++i) {
    if (random->Below(4) == 0)
      input[i] = static_cast<uint8_t>(random->Below(8));
  }
  return input;
}

Input Changed(Input input, const std::vector<Input>& corpus, Random* random) {
  for (uint32_t turns = 1 + random->Below(6); turns > 0; --turns) {
    const auto size = static_cast<uint32_t>(input.size());
    const uint32_t at = random->Below(size + 1);
    switch (random->Below(6)) {
      case 0:
        if (at < size) input[at] = static_cast<uint8_t>(random->Below(256));
        break;
      case 1:
        if (at < size) input[at] ^= static_cast<uint8_t>(1 << random->Below(8));
        break;
      case 2:
        if (at < size) input[at] += static_cast<uint8_t>(random->Below(9)) - 4;
        break;
      case 3:
        input.insert(input.begin() + at,
                     static_cast<uint8_t>(random->Below(256)));
        break;
      case 4:
        if (at < size) input.erase(input.begin() + at);
        break;
      default: {  // the head of one, the rest of another
        const Input& other =
            corpus[random->Below(static_cast<uint32_t>(corpus.size()))];
        if (other.size() <= at) break;
        input.resize(at);
        input.insert(input.end(), other.begin() + at, other.end());
      }
    }
  }
  return input;
}

Input Generated(uint64_t seed, long long number,
                const std::vector<Input>& corpus) {
  Random random(seed * 1000003 + static_cast<uint64_t>(number));
  if (corpus.empty() || random.Below(2) == 0) return Anew(&random);
  const Input& one = corpus[random.Below(static_cast<uint32_t>(corpus.size()))];
  return Changed(one, corpus, &random);
}

int Main(int count, char** arguments) {
  long long executions = 100000, from = 0;
  uint64_t seed = 0;
  std::vector<Input> corpus;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const bool valued = i + 1 < count;
    if (argument == "--executions" && valued) {
      executions = std::atoll(arguments[++i]);
    } else if (argument == "--seed" && valued) {
      seed = std::strtoull(arguments[++i], nullptr, 10);
    } else if (argument == "--from" && valued) {
      from = std::atoll(arguments[++i]);
    } else if (argument[0] == '-') {
      std::fprintf(stderr,
                   "fuzz [--executions N] [--seed S] [--from I] "
                   "[FILE ...]\n");
      return 2;
    } else {
      for (Input& input : ReadInputs(arguments[i])) {
        corpus.push_back(std::move(input));
      }
    }
  }
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(KeepInput);
  } else {
    for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
      std::signal(number, OnSignal);
    }
  }
  std::signal(SIGABRT, OnSignal);

  const auto start = std::chrono::steady_clock::now();
  for (const Input& input : corpus) RunInput(input, -1);
  const int64_t of_corpus = Done().executions;
  long long number = from;
  for (; Done().executions < executions; ++number) {
    RunInput(Generated(seed, number, corpus), number);
  }
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  std::printf(
      "%lld executions reached a kernel, %lld of them by the %zu of files; "
      "%lld calls "
      "and %lld shapes made of seed %llu, inputs %lld to %lld; %.1f s\n",
      static_cast<long long>(Done().executions),
      static_cast<long long>(of_corpus), corpus.size(),
      static_cast<long long>(Done().calls),
      static_cast<long long>(Done().shapes),
      static_cast<unsigned long long>(seed), from, number, seconds.count());
  return 0;
}

}  // namespace
}  // namespace jax_roipool::native

int main(int count, char** arguments) {
  return jax_roipool::native::Main(count, arguments);
}
