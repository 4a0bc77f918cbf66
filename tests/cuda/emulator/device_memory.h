// Device memory with nothing sensible in it and a guard behind it, which every launch checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace cuda_emulator {

class DeviceMemory {
 public:
  DeviceMemory() { living().push_back(this); }
  ~DeviceMemory() { std::erase(living(), this); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* operator()(int64_t bytes) {
    blocks_.emplace_back(static_cast<size_t>(bytes) + kGuardBytes, kUnwritten);
    return blocks_.back().data();
  }

  static void check() {
    for (const DeviceMemory* memory : living()) {
      for (const auto& block : memory->blocks_) {
        const size_t size = block.size() - kGuardBytes;
        for (size_t i = size; i < block.size(); ++i) {
          if (block[i] == kUnwritten) continue;
          throw std::runtime_error("wrote past " + std::to_string(size) + " bytes of device memory");
        }
      }
    }
  }

 private:
  static constexpr size_t kGuardBytes = 64;
  static constexpr unsigned char kUnwritten = 0xCB;

  static std::vector<DeviceMemory*>& living() {
    static std::vector<DeviceMemory*> all;
    return all;
  }

  std::vector<std::vector<unsigned char>> blocks_;
};

}  // namespace cuda_emulator
