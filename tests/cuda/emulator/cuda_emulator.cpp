#include "cuda_emulator.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <vector>

namespace cuda_emulator {
namespace {

constexpr int kMaxThreads = 1024, kWarp = 32;
constexpr size_t kStackBytes = 64 * 1024, kGuardBytes = 256;
constexpr unsigned char kUnwritten = 0xCB, kGuard = 0xAD;

enum class State { kReady, kWaitsForWarp, kWaitsForCta, kDone };

struct Fiber {
  jmp_buf resume;
  bool alive = false;  // its stack holds a loop that waits for the next launch
  State state = State::kDone;
};

struct Meeting {
  unsigned mask = 0, arrived = 0;
  Collective kind{};
  Where where;
  uint64_t operands[kWarp] = {}, gathered[kWarp] = {};
};

struct Machine {
  std::vector<Fiber> fibers = std::vector<Fiber>(kMaxThreads);
  unsigned char* stacks = nullptr;
  jmp_buf scheduler;
  ucontext_t started;
  const std::function<void()>* body = nullptr;
  int threads = 0, current = 0;
  std::string error;
  Meeting warps[kMaxThreads / kWarp];
  Collective cta_kind{};
  Where cta_where;
  int cta_arrived = 0, cta_votes = 0, cta_result = 0;
  std::vector<unsigned char> shared;
  Order order = Order::kAscending;
  uint64_t random = 1;
};

Machine machine;

const char* name_of(Collective kind) {
  switch (kind) {
    case Collective::kSyncWarp:
      return "__syncwarp";
    case Collective::kShuffle:
      return "a shuffle";
    case Collective::kBallot:
      return "a vote";
    case Collective::kReduce:
      return "a warp reduction";
    case Collective::kSyncThreads:
      return "__syncthreads";
    case Collective::kSyncThreadsCount:
      return "a counting __syncthreads";
  }
  return "";
}

std::string place(Collective kind, const Where& where) {
  const std::string file = where.file_name();
  return std::string(name_of(kind)) + " (" + file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line()) +
         ")";
}

void back_to_scheduler() {
  Fiber& fiber = machine.fibers[machine.current];
  if (_setjmp(fiber.resume) == 0) _longjmp(machine.scheduler, 1);
}

[[noreturn]] void fail(const std::string& message) {
  if (machine.error.empty()) {
    machine.error =
        "CTA " + std::to_string(blockIdx.x) + ", thread " + std::to_string(machine.current) + ": " + message;
  }
  _longjmp(machine.scheduler, 1);
}

void fiber_main() {
  for (;;) {
    (*machine.body)();
    machine.fibers[machine.current].state = State::kDone;
    back_to_scheduler();
  }
}

void run_fiber(int thread) {
  Fiber& fiber = machine.fibers[thread];
  machine.current = thread;
  threadIdx.x = static_cast<unsigned>(thread);
  if (_setjmp(machine.scheduler) != 0) return;
  if (fiber.alive) _longjmp(fiber.resume, 1);
  fiber.alive = true;
  getcontext(&machine.started);
  machine.started.uc_stack.ss_sp = machine.stacks + static_cast<size_t>(thread) * kStackBytes;
  machine.started.uc_stack.ss_size = kStackBytes;
  machine.started.uc_link = nullptr;
  makecontext(&machine.started, fiber_main, 0);
  setcontext(&machine.started);
}

std::string who_waits() {
  int waiting = 0, left = 0;
  for (int i = 0; i < machine.threads; ++i) {
    waiting += machine.fibers[i].state == State::kWaitsForCta;
    left += machine.fibers[i].state == State::kDone;
  }
  for (int warp = 0; warp * kWarp < machine.threads; ++warp) {
    const Meeting& meeting = machine.warps[warp];
    if (meeting.arrived == 0) continue;
    return "warp " + std::to_string(warp) + " waits for all of its lanes at " + place(meeting.kind, meeting.where) +
           ", some never come";
  }
  return std::to_string(waiting) + " of " + std::to_string(machine.threads) + " threads wait at " +
         place(machine.cta_kind, machine.cta_where) + ", " + std::to_string(left) + " have left the kernel";
}

uint64_t draw() {
  // xorshift64*
  machine.random ^= machine.random >> 12;
  machine.random ^= machine.random << 25;
  machine.random ^= machine.random >> 27;
  return machine.random * 0x2545F4914F6CDD1Dull >> 32;
}

// The numbers 0 to count - 1 in the chosen order: a shuffled one starts anywhere and takes any odd steps.
template <typename Visit>
void visit_in_order(int count, const Visit& visit) {
  const bool shuffled = machine.order == Order::kShuffled;
  const unsigned period = std::bit_ceil(static_cast<unsigned>(count));
  const unsigned start = shuffled ? static_cast<unsigned>(draw()) : 0;
  const unsigned step = shuffled ? static_cast<unsigned>(draw()) | 1 : 1;
  for (unsigned i = 0; i < period; ++i) {
    const int number = static_cast<int>((start + i * step) % period);
    if (number < count) visit(machine.order == Order::kDescending ? count - 1 - number : number);
  }
}

// Runs a warp until all of its lanes wait for other warps or are done. Returns whether any ran.
bool run_warp(int warp) {
  bool ran = false;
  for (bool again = true; again;) {
    again = false;
    visit_in_order(kWarp, [&](int lane) {
      const int thread = warp * kWarp + lane;
      if (machine.fibers[thread].state != State::kReady || !machine.error.empty()) return;
      again = ran = true;
      run_fiber(thread);
    });
    if (!machine.error.empty()) return false;
  }
  return ran;
}

// A warp gets as far ahead of the others as barriers let it.
void run_cta() {
  for (int i = 0; i < machine.threads; ++i) machine.fibers[i].state = State::kReady;
  for (Meeting& meeting : machine.warps) meeting.arrived = 0;
  machine.cta_arrived = machine.cta_votes = 0;
  for (bool ran = true; ran;) {
    ran = false;
    visit_in_order(machine.threads / kWarp, [&](int warp) { ran |= machine.error.empty() && run_warp(warp); });
  }
  if (!machine.error.empty()) return;
  const bool done = std::all_of(machine.fibers.begin(), machine.fibers.begin() + machine.threads,
                                [](const Fiber& fiber) { return fiber.state == State::kDone; });
  if (!done) machine.error = "CTA " + std::to_string(blockIdx.x) + ": " + who_waits();
}

}  // namespace

void set_order(Order order, uint64_t seed) {
  machine.order = order;
  machine.random = seed * 2 + 1;
}

unsigned char* shared_memory() { return machine.shared.data(); }

void pause() {
  if (machine.order == Order::kShuffled && draw() % 4 == 0) back_to_scheduler();
}

const uint64_t* meet_warp(Collective kind, unsigned mask, uint64_t operand, const Where& where) {
  const int thread = machine.current, lane = thread % kWarp, base = thread - lane;
  Meeting& meeting = machine.warps[thread / kWarp];
  if (!(mask >> lane & 1)) fail(place(kind, where) + ": the mask lacks the lane itself");
  if (meeting.arrived == 0) {
    meeting.kind = kind;
    meeting.mask = mask;
    meeting.where = where;
  } else if (meeting.kind != kind || meeting.mask != mask || meeting.where.line() != where.line() ||
             meeting.where.column() != where.column()) {
    fail("divergent warp: this lane is at " + place(kind, where) + ", others at " + place(meeting.kind, meeting.where));
  }
  meeting.operands[lane] = operand;
  meeting.arrived |= 1u << lane;
  if (meeting.arrived != mask) {
    machine.fibers[thread].state = State::kWaitsForWarp;
    back_to_scheduler();
  } else {
    std::copy_n(meeting.operands, kWarp, meeting.gathered);
    meeting.arrived = 0;
    for (int i = 0; i < kWarp; ++i) {
      if (mask >> i & 1) machine.fibers[base + i].state = State::kReady;
    }
    pause();
  }
  return meeting.gathered;
}

int meet_cta(Collective kind, bool predicate, const Where& where) {
  const int thread = machine.current;
  if (machine.cta_arrived == 0) {
    machine.cta_kind = kind;
    machine.cta_where = where;
  } else if (machine.cta_kind != kind || machine.cta_where.line() != where.line() ||
             machine.cta_where.column() != where.column()) {
    fail("divergent CTA: this thread is at " + place(kind, where) + ", others at " +
         place(machine.cta_kind, machine.cta_where));
  }
  machine.cta_votes += predicate;
  if (++machine.cta_arrived < machine.threads) {
    machine.fibers[thread].state = State::kWaitsForCta;
    back_to_scheduler();
  } else {
    machine.cta_result = machine.cta_votes;
    machine.cta_arrived = machine.cta_votes = 0;
    for (int i = 0; i < machine.threads; ++i) machine.fibers[i].state = State::kReady;
    pause();
  }
  return machine.cta_result;
}

void run_grid(const std::function<void()>& body, unsigned grid, unsigned block, size_t shared_bytes) {
  if (block == 0 || block > kMaxThreads || block % kWarp != 0) {
    throw std::runtime_error("launch: expected whole warps, at most 1024 threads, got " + std::to_string(block));
  }
  if (machine.stacks == nullptr) {
    void* memory = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no memory for the fibers' stacks");
    machine.stacks = static_cast<unsigned char*>(memory);
  }
  gridDim = {grid, 1, 1};
  blockDim = {block, 1, 1};
  machine.body = &body;
  machine.threads = static_cast<int>(block);
  machine.error.clear();
  for (unsigned cta = 0; cta < grid && machine.error.empty(); ++cta) {
    machine.shared.assign(shared_bytes, kUnwritten);
    machine.shared.resize(shared_bytes + kGuardBytes, kGuard);
    blockIdx.x = cta;
    run_cta();
    const bool intact = std::all_of(machine.shared.begin() + static_cast<int64_t>(shared_bytes), machine.shared.end(),
                                    [](unsigned char byte) { return byte == kGuard; });
    if (machine.error.empty() && !intact) {
      machine.error = "CTA " + std::to_string(cta) + ": wrote past " + std::to_string(shared_bytes) +
                      " bytes of dynamic shared memory";
    }
  }
  if (machine.error.empty()) return;
  // The stacks hold unfinished calls.
  for (Fiber& fiber : machine.fibers) fiber.alive = false;
  throw std::runtime_error(machine.error);
}

}  // namespace cuda_emulator
