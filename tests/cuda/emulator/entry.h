// What the functions share that are called through ctypes: errors come back as text.
#pragma once

#include <exception>
#include <string>
#include <utility>

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
