#include <pybind11/pybind11.h>

namespace py = pybind11;

PYBIND11_MODULE(_numpy, module) {
  module.doc() = "The box engine on NumPy arrays: no torch, the GIL released.";
  module.def(
      "build_info",
      [] {
        py::dict info;
        info["compiler"] = __VERSION__;
        info["standard"] = static_cast<long>(__cplusplus);
        return info;
      },
      "Compiler and language standard of this build.");
}
