// Loads an exported model with tensorflow::LoadSavedModel, the loader that TF Serving builds on, and asks it without
// any Python. Tensors come and go as files that each hold one serialised tensorflow.TensorProto.
//
//   serve answer MODEL               reads lines "REQUESTS THREADS" until the input ends. REQUESTS is a file of lines
//                                    "signature out_prefix input=file input=file ..."; they are asked from so many
//                                    threads at once, and out_prefix.<output> is written for each, or out_prefix.error
//                                    ("CODE message"). Prints a line when all are answered
//   serve soak MODEL SIGNATURE DIR THREADS COUNT MAX_BATCH
//                                    random rows and batch sizes; DIR/input.<name> and DIR/output.<name> hold a pool
//                                    of rows and their right answers (bytes, at most one grey level apart)
//   serve time MODEL SIGNATURE DIR REPEATS SIZE SIZE ...
//                                    median seconds for each batch size
//   serve load MODEL SIGNATURE DIR ROUNDS CALLERS SIZE CALLERS SIZE ...
//                                    rows a second of so many callers at once, each asking for SIZE rows again and
//                                    again; the median of ROUNDS, in each of which every pair has its turn
//   serve beside MODEL SIGNATURE DIR REPEATS OTHER OTHER_DIR CALLERS
//                                    median seconds of a row of SIGNATURE, alone and beside so many callers of OTHER
//   serve first MODEL REQUESTS       seconds to load, and of the first two calls of each of the requests (as for
//                                    `answer`)
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/public/session.h"

using tensorflow::Tensor;
using Named = std::map<std::string, Tensor>;

namespace {

Tensor Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  tensorflow::TensorProto proto;
  Tensor tensor;
  if (!proto.ParseFromIstream(&file) || !tensor.FromProto(proto)) {
    std::cerr << "cannot read " << path << "\n";
    std::exit(2);
  }
  return tensor;
}

void Write(const Tensor& tensor, const std::string& path) {
  tensorflow::TensorProto proto;
  if (tensor.dtype() == tensorflow::DT_STRING) {
    tensor.AsProtoField(&proto);
  } else {
    tensor.AsProtoTensorContent(&proto);
  }
  std::ofstream file(path, std::ios::binary);
  proto.SerializeToOstream(&file);
}

class Model {
 public:
  explicit Model(const std::string& path) {
    tensorflow::SessionOptions options;
    auto status = tensorflow::LoadSavedModel(options, tensorflow::RunOptions(), path, {"serve"}, &bundle_);
    if (!status.ok()) {
      std::cerr << "cannot load " << path << ": " << status.ToString() << "\n";
      std::exit(2);
    }
  }

  // The named outputs of a signature, as TF Serving's Predict finds them.
  absl::Status Ask(const std::string& signature, const Named& inputs, Named* outputs) {
    const auto& signatures = bundle_.meta_graph_def.signature_def();
    auto found = signatures.find(signature);
    if (found == signatures.end()) return absl::NotFoundError("no signature " + signature);
    std::vector<std::pair<std::string, Tensor>> feeds;
    for (const auto& [name, info] : found->second.inputs()) {
      auto value = inputs.find(name);
      if (value == inputs.end()) return absl::InvalidArgumentError("missing input " + name);
      feeds.emplace_back(info.name(), value->second);
    }
    std::vector<std::string> names, fetches;
    for (const auto& [name, info] : found->second.outputs()) {
      names.push_back(name);
      fetches.push_back(info.name());
    }
    std::vector<Tensor> values;
    auto status = bundle_.session->Run(feeds, fetches, {}, &values);
    if (!status.ok()) return status;
    for (size_t i = 0; i < names.size(); ++i) (*outputs)[names[i]] = values[i];
    return absl::OkStatus();
  }

 private:
  tensorflow::SavedModelBundle bundle_;
};

struct Request {
  std::string signature, prefix;
  Named inputs;
};

std::vector<Request> ReadRequests(const std::string& path) {
  std::vector<Request> found;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    Request request;
    words >> request.signature >> request.prefix;
    for (std::string word; words >> word;) {
      auto at = word.find('=');
      request.inputs[word.substr(0, at)] = Read(word.substr(at + 1));
    }
    found.push_back(std::move(request));
  }
  return found;
}

void AskOne(Model& model, const Request& request) {
  Named outputs;
  auto status = model.Ask(request.signature, request.inputs, &outputs);
  if (!status.ok()) {
    std::ofstream(request.prefix + ".error") << absl::StatusCodeToString(status.code()) << " " << status.message();
  }
  for (const auto& [name, value] : outputs) Write(value, request.prefix + "." + name);
}

double Seconds(const std::function<void()>& work) {
  auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The most that the process has held.
double PeakMegabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stod(line.substr(6)) / 1024;
  }
  return 0;
}

// `work(i)` in a thread for each i.
void InThreads(int count, const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(work, i);
  for (auto& thread : threads) thread.join();
}

// Reads every DIR/<kind>.<name>.
Named ReadAll(const std::string& dir, const std::string& kind) {
  Named found;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    std::string name = entry.path().filename();
    if (name.rfind(kind + ".", 0) == 0) found[name.substr(kind.size() + 1)] = Read(entry.path());
  }
  return found;
}

// The rows of `pool` in the order of `rows`.
Tensor Take(const Tensor& pool, const std::vector<int>& rows) {
  auto shape = pool.shape();
  const size_t bytes = pool.tensor_data().size() / shape.dim_size(0);
  shape.set_dim(0, rows.size());
  Tensor taken(pool.dtype(), shape);
  char* to = const_cast<char*>(taken.tensor_data().data());
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(to + i * bytes, pool.tensor_data().data() + rows[i] * bytes, bytes);
  }
  return taken;
}

Named Take(const Named& pool, const std::vector<int>& rows) {
  Named taken;
  for (const auto& [name, tensor] : pool) taken[name] = Take(tensor, rows);
  return taken;
}

double ResidentKilobytes() {
  long pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * (sysconf(_SC_PAGESIZE) / 1024.0);
}

// The largest distance between bytes of `image` and of the pool's rows.
int Distance(const Tensor& image, const Tensor& right) {
  if (image.tensor_data().size() != right.tensor_data().size()) return 256;
  const auto* a = reinterpret_cast<const unsigned char*>(image.tensor_data().data());
  const auto* b = reinterpret_cast<const unsigned char*>(right.tensor_data().data());
  int worst = 0;
  for (size_t i = 0; i < image.tensor_data().size(); ++i) worst = std::max(worst, std::abs(int(a[i]) - int(b[i])));
  return worst;
}

// Of a line through the points, by least squares.
double Slope(const std::vector<std::pair<double, double>>& points) {
  double n = points.size(), x = 0, y = 0, xx = 0, xy = 0;
  for (auto [a, b] : points) x += a, y += b, xx += a * a, xy += a * b;
  return (n * xy - x * y) / (n * xx - x * x);
}

int Soak(Model& model, const std::string& signature, const std::string& dir, int threads, int count, int max_batch) {
  const Named inputs = ReadAll(dir, "input"), right = ReadAll(dir, "output");
  const int pool = inputs.begin()->second.dim_size(0);
  std::atomic<int> next{0}, failures{0}, worst{0};
  std::mutex lock;
  std::vector<std::pair<double, double>> memory;
  auto one = [&](int batch, std::mt19937& random) {
    std::vector<int> rows(batch);
    for (int& row : rows) row = random() % pool;
    Named outputs;
    auto status = model.Ask(signature, Take(inputs, rows), &outputs);
    int distance = status.ok() ? Distance(outputs["image"], Take(right.at("image"), rows)) : 256;
    if (distance > 1) ++failures;
    int seen = worst.load();
    while (distance > seen && !worst.compare_exchange_weak(seen, distance)) {
    }
  };
  std::mt19937 first(0);
  for (int batch = 1; batch <= max_batch; ++batch) one(batch, first);  // each size once
  std::vector<std::thread> workers;
  for (int worker = 0; worker < threads; ++worker) {
    workers.emplace_back([&, worker] {
      std::mt19937 random(worker + 1);
      for (int k; (k = next++) < count;) {
        one(1 + random() % max_batch, random);
        if (k % 20 == 0) {
          std::lock_guard<std::mutex> guard(lock);
          memory.emplace_back(k, ResidentKilobytes());
        }
      }
    });
  }
  for (auto& worker : workers) worker.join();
  std::sort(memory.begin(), memory.end());
  const std::vector<std::pair<double, double>> late(memory.begin() + memory.size() / 2, memory.end());
  std::cout << "requests " << count << " failures " << failures << " worst_distance " << worst << " slope_kb "
            << Slope(memory) << " late_slope_kb " << Slope(late) << " resident_mb " << ResidentKilobytes() / 1024
            << "\n";
  return failures ? 1 : 0;
}

int Time(Model& model, const std::string& signature, const std::string& dir, int repeats, std::vector<int> sizes) {
  const Named inputs = ReadAll(dir, "input");
  for (int size : sizes) {
    std::vector<int> rows(size);
    for (int i = 0; i < size; ++i) rows[i] = i % inputs.begin()->second.dim_size(0);
    const Named request = Take(inputs, rows);
    std::vector<double> seconds;
    for (int i = -3; i < repeats; ++i) {
      Named outputs;
      auto begin = std::chrono::steady_clock::now();
      auto status = model.Ask(signature, request, &outputs);
      std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
      if (!status.ok()) {
        std::cerr << status.ToString() << "\n";
        return 1;
      }
      if (i >= 0) seconds.push_back(taken.count());  // the first calls compile for each shape in each thread
    }
    std::cout << signature << " " << size << " " << Median(seconds) << "\n";
  }
  return 0;
}

int Answer(Model& model) {
  std::string path;
  for (int threads; std::cin >> path >> threads;) {
    const auto requests = ReadRequests(path);
    std::atomic<size_t> next{0};
    const double seconds = Seconds([&] {
      InThreads(threads, [&](int) {
        for (size_t i; (i = next++) < requests.size();) AskOne(model, requests[i]);
      });
    });
    std::cout << "seconds " << seconds << " peak_mb " << PeakMegabytes() << " resident_mb " << ResidentKilobytes() / 1024
              << std::endl;
  }
  return 0;
}

// Rows a second of callers that each ask again as soon as they are answered.
double RowsASecond(Model& model, const std::string& signature, const Named& inputs, int callers, int size) {
  const int pool = inputs.begin()->second.dim_size(0);
  std::atomic<long> answered{0};
  std::atomic<bool> going{true};
  long counted = 0;
  double taken = 0;
  std::thread clock([&] {
    // The first answers come before all callers are there: they are not counted.
    while (answered < 2 * callers) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const long begin = answered;
    taken = Seconds([&] {
      while (answered - begin < std::max(6 * callers, 6)) std::this_thread::sleep_for(std::chrono::microseconds(200));
    });
    counted = answered - begin;
    going = false;
  });
  InThreads(callers, [&](int caller) {
    std::vector<int> rows(size);
    for (int i = 0; i < size; ++i) rows[i] = (caller * size + i) % pool;
    const Named request = Take(inputs, rows);
    while (going) {
      Named outputs;
      auto status = model.Ask(signature, request, &outputs);
      if (!status.ok()) {
        std::cerr << status.ToString() << "\n";
        std::exit(1);
      }
      ++answered;
    }
  });
  clock.join();
  return counted * size / taken;
}

int Load(Model& model, const std::string& signature, const std::string& dir, int rounds, std::vector<int> pairs) {
  const Named inputs = ReadAll(dir, "input");
  std::vector<std::vector<double>> found(pairs.size() / 2);
  for (int round = -1; round < rounds; ++round) {  // the first compiles
    for (size_t i = 0; i < found.size(); ++i) {
      double speed = RowsASecond(model, signature, inputs, pairs[2 * i], pairs[2 * i + 1]);
      if (round >= 0) found[i].push_back(speed);
    }
  }
  for (size_t i = 0; i < found.size(); ++i) {
    std::cout << signature << " " << pairs[2 * i] << " " << pairs[2 * i + 1] << " " << Median(found[i]) << "\n";
  }
  return 0;
}

int Beside(Model& model, const std::string& signature, const std::string& dir, int repeats, const std::string& other,
           const std::string& other_dir, int callers) {
  auto row = [](const std::string& dir) { return Take(ReadAll(dir, "input"), {0}); };
  const Named request = row(dir), other_request = row(other_dir);
  auto ask = [&](const std::string& name, const Named& inputs) {
    Named outputs;
    auto status = model.Ask(name, inputs, &outputs);
    if (!status.ok()) {
      std::cerr << status.ToString() << "\n";
      std::exit(1);
    }
  };
  auto time = [&] {
    std::vector<double> seconds;
    for (int i = 0; i < repeats; ++i) seconds.push_back(Seconds([&] { ask(signature, request); }));
    return Median(seconds);
  };
  ask(signature, request);
  ask(other, other_request);
  const double alone = time();
  std::atomic<bool> going{true};
  double beside = 0;
  std::thread measured([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    beside = time();
    going = false;
  });
  InThreads(callers, [&](int) {
    while (going) ask(other, other_request);
  });
  measured.join();
  std::cout << "alone " << alone << " beside " << beside << "\n";
  return 0;
}

int First(const std::string& path, const std::string& requests) {
  std::unique_ptr<Model> model;
  std::cout << "load " << Seconds([&] { model = std::make_unique<Model>(path); }) << " " << ResidentKilobytes() / 1024
            << "\n";
  for (const Request& request : ReadRequests(requests)) {
    std::cout << request.signature;
    for (int i = 0; i < 2; ++i) std::cout << " " << Seconds([&] { AskOne(*model, request); });
    std::cout << " " << ResidentKilobytes() / 1024 << std::endl;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() < 2) {
    std::cerr << "serve answer|soak|time|load|beside|first MODEL ...\n";
    return 2;
  }
  auto number = [&](size_t i) { return std::stoi(words.at(i)); };
  if (words[0] == "first") return First(words[1], words.at(2));
  Model model(words[1]);
  if (words[0] == "answer") return Answer(model);
  if (words[0] == "soak") return Soak(model, words[2], words[3], number(4), number(5), number(6));
  if (words[0] == "beside") return Beside(model, words[2], words[3], number(4), words[5], words[6], number(7));
  std::vector<int> sizes;
  for (size_t i = 5; i < words.size(); ++i) sizes.push_back(number(i));
  if (words[0] == "load") return Load(model, words[2], words[3], number(4), sizes);
  return Time(model, words[2], words[3], number(4), sizes);
}
