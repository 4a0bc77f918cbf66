// What the test library's functions share: they are called through ctypes, so errors come back as text.
#pragma once

#include <cstdlib>
#include <exception>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_emulator.h"

#define WSOLFAST_ENTRY extern "C" __attribute__((visibility("default")))

namespace cuda_emulator {

// Device memory with nothing sensible in it and a guard behind it.
class Heap {
 public:
  void* operator()(int64_t bytes) const {
    blocks_.emplace_back(static_cast<size_t>(bytes) + kGuard, 0xCB);
    return blocks_.back().data();
  }
  void check() const {
    for (const auto& block : blocks_) {
      for (size_t i = block.size() - kGuard; i < block.size(); ++i) {
        if (block[i] != 0xCB) {
          throw std::runtime_error("wrote past " + std::to_string(block.size() - kGuard) + " bytes of device memory");
        }
      }
    }
  }

 private:
  static constexpr size_t kGuard = 64;
  mutable std::vector<std::vector<unsigned char>> blocks_;
};

// A list of numbers as it crosses from Python.
template <typename T>
struct List {
  const T* data;
  int64_t count;

  std::span<const T> span() const { return {data, static_cast<size_t>(count)}; }
};

// Runs `function`; returns nullptr, or why it failed.
template <typename Function>
const char* reported(Function&& function) {
  static std::string message;
  try {
    std::forward<Function>(function)();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace cuda_emulator
