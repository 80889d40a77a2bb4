"""What is changed in Horovod's source so that nothing runs between exchanges, and they run faster.

Horovod's background thread was written for an exchange at every step: it asks all ranks a thousand
times a second whether there is something to do, and a waiting rank keeps a core busy. Between the
exchanges of Local SGD that cost a small model most of its speed (two ranks on two cores: 1.7 x).
Now it sleeps until this rank has something under way, or for HOROVOD_IDLE_CYCLE_TIME milliseconds
(50; 0 for the thread as it was). Standard library only.
"""

from __future__ import annotations

from hpc_localsgd.environment.patch import Patch

_SLEEPS = "the background thread sleeps while this rank has nothing under way, and wakes at once"
_WAITS = "a rank that waits for an exchange sleeps, and leaves the core to the thread that does it"

TO_REST = (
    Patch(
        "horovod/common/tensor_queue.h",
        "  void FinalizeTensorQueue(const Status& status);\n",
        "  void FinalizeTensorQueue(const Status& status);\n"
        "\n"
        "  bool IsEmpty() const;\n"
        "\n"
        "  // Sleep until a tensor is added to any queue, at most so long.\n"
        "  static void AwaitTensor(double at_most_ms);\n",
        _SLEEPS,
    ),
    Patch(
        "horovod/common/tensor_queue.cc",
        "// Add a TensorTableEntry as well as its message to the queue.\n",
        "static std::mutex awaited_mutex;\n"
        "static std::condition_variable awaited;\n"
        "static bool added = false;\n"
        "\n"
        "static void TellAdded() {\n"
        "  std::lock_guard<std::mutex> guard(awaited_mutex);\n"
        "  added = true;\n"
        "  awaited.notify_all();\n"
        "}\n"
        "\n"
        "void TensorQueue::AwaitTensor(double at_most_ms) {\n"
        "  std::unique_lock<std::mutex> lock(awaited_mutex);\n"
        "  awaited.wait_for(lock, std::chrono::duration<double, std::milli>(at_most_ms),\n"
        "                   [] { return added; });\n"
        "  added = false;\n"
        "}\n"
        "\n"
        "bool TensorQueue::IsEmpty() const {\n"
        "  std::lock_guard<std::mutex> guard(mutex_);\n"
        "  return tensor_table_.empty() && message_queue_.empty();\n"
        "}\n"
        "\n"
        "// Add a TensorTableEntry as well as its message to the queue.\n",
        _SLEEPS,
    ),
    Patch(
        "horovod/common/tensor_queue.cc",
        "#include <assert.h>\n",
        "#include <assert.h>\n\n#include <chrono>\n#include <condition_variable>\n",
        _SLEEPS,
    ),
    Patch(
        "horovod/common/tensor_queue.cc",
        "  message_queue_.push(std::move(message));\n  return Status::OK();\n",
        "  message_queue_.push(std::move(message));\n  TellAdded();\n  return Status::OK();\n",
        _SLEEPS,
    ),
    Patch(
        "horovod/common/tensor_queue.cc",
        "    message_queue_.push(std::move(messages[i]));\n  }\n",
        "    message_queue_.push(std::move(messages[i]));\n  }\n  TellAdded();\n",
        _SLEEPS,
    ),
    Patch(
        "horovod/common/operations.cc",
        "    std::this_thread::sleep_for(sleep_duration);\n  }\n  state.last_cycle_start",
        "    std::this_thread::sleep_for(sleep_duration);\n  }\n"
        "  // Nothing can be done before this rank takes part in it. All ranks leave a cycle\n"
        "  // together, so that idle ones also meet for the next cycle at the same time.\n"
        "  static const double idle_ms =\n"
        '      GetDoubleEnvOrDefault("HOROVOD_IDLE_CYCLE_TIME", 50.0);\n'
        "  bool idle = !state.shut_down && !state.parameter_manager.IsAutoTuning();\n"
        "  int sets = 0;  // a block must not wait for ranks that sleep in others\n"
        "  for (auto id : state.process_set_table.Ids()) {\n"
        "    ++sets;\n"
        "    idle = idle && state.process_set_table.Get(id).tensor_queue.IsEmpty();\n"
        "  }\n"
        "  if (idle && idle_ms > 0) {\n"
        "    TensorQueue::AwaitTensor(sets > 1 ? std::min(idle_ms, 1.0) : idle_ms);\n"
        "  }\n"
        "  state.last_cycle_start",
        _SLEEPS,
    ),
    Patch(
        "horovod/torch/handle_manager.h",
        "  bool PollHandle(int handle);\n",
        "  bool PollHandle(int handle);\n  void AwaitHandle(int handle);\n",
        _WAITS,
    ),
    Patch(
        "horovod/torch/handle_manager.h",
        "  std::mutex mutex_;\n",
        "  std::mutex mutex_;\n  std::condition_variable done_;\n",
        _WAITS,
    ),
    Patch(
        "horovod/torch/handle_manager.h",
        "#include <atomic>\n",
        "#include <atomic>\n#include <condition_variable>\n",
        _WAITS,
    ),
    Patch(
        "horovod/torch/handle_manager.cc",
        "  results_[handle] = std::make_shared<Status>(status);\n}\n",
        "  results_[handle] = std::make_shared<Status>(status);\n"
        "  done_.notify_all();\n"
        "}\n"
        "\n"
        "void HandleManager::AwaitHandle(int handle) {\n"
        "  std::unique_lock<std::mutex> lock(mutex_);\n"
        "  done_.wait(lock, [&] {\n"
        "    auto found = results_.find(handle);\n"
        "    return found == results_.end() || found->second != nullptr;\n"
        "  });\n"
        "}\n",
        _WAITS,
    ),
    Patch(
        "horovod/torch/mpi_ops_v2.cc",
        "      std::this_thread::yield();\n",
        "      handle_manager.AwaitHandle(handle);\n",
        _WAITS,
    ),
    Patch(
        "horovod/torch/mpi_ops_v2.cc",
        '  m.def("horovod_torch_poll", &PollHandle);\n',
        '  m.def("horovod_torch_poll", &PollHandle);\n  m.attr("rests_when_idle") = true;\n',
        "tells Python that the patches above are in",
    ),
)

_IN_PARTS = (
    "MPI_Allreduce in place takes a second buffer as large as the first and pays for its pages "
    "each time; parts that stay in the cache, scaled there, take half the time (100 MB, 2 ranks)"
)

TO_AVERAGE = (
    Patch(
        "horovod/common/ops/mpi_operations.cc",
        """  int op =
      MPI_Allreduce(sendbuf, buffer_data, (int)num_elements,
                    mpi_context.GetMPIDataType(first_entry.tensor),
                    mpiOp,
                    mpi_context.GetMPICommunicator(Communicator::GLOBAL));
  if (op != MPI_SUCCESS) {
    throw std::runtime_error("MPI_Allreduce failed, see MPI output for details.");
  }
  timeline.ActivityEndAll(entries);

  if (postscale_factor != 1.0) {
    // Execute postscaling op
    ScaleBuffer(postscale_factor, entries, buffer_data, buffer_data, num_elements);
  }
""",
        """  // Parts of 4 MiB, more where many ranks share them: a message stays above 1 MiB.
  const int64_t width = mpi_context.GetMPITypeSize(first_entry.tensor->dtype());
  const int64_t fours = std::max(1, process_set.controller->GetSize() / 4);
  const int64_t part = std::min<int64_t>((fours << 22) / width, 1 << 30);
  for (int64_t begin = 0; begin < num_elements; begin += part) {
    const int64_t count = std::min(part, num_elements - begin);
    char* out = (char*)buffer_data + begin * width;
    const void* in = sendbuf == MPI_IN_PLACE ? MPI_IN_PLACE
                                             : (const char*)sendbuf + begin * width;
    int op = MPI_Allreduce(in, out, (int)count,
                           mpi_context.GetMPIDataType(first_entry.tensor), mpiOp,
                           mpi_context.GetMPICommunicator(Communicator::GLOBAL));
    if (op != MPI_SUCCESS) {
      throw std::runtime_error("MPI_Allreduce failed, see MPI output for details.");
    }
    if (postscale_factor != 1.0) {
      ScaleBuffer(postscale_factor, entries, out, out, count);
    }
  }
  timeline.ActivityEndAll(entries);
""",
        _IN_PARTS,
    ),
    Patch(
        "horovod/common/ops/mpi_operations.cc",
        '#include "mpi_operations.h"\n',
        '#include "mpi_operations.h"\n\n#include <algorithm>\n',
        _IN_PARTS,
    ),
)
