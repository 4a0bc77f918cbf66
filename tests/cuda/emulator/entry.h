// What the test library's functions share: they are called through ctypes, so errors come back as text.
#pragma once

#include <cstdlib>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "cuda_emulator.h"

#define WSOLFAST_ENTRY extern "C" __attribute__((visibility("default")))

namespace cuda_emulator {

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
