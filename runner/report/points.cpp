// SPDX-License-Identifier: Apache-2.0
#include "runner/report/points.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "runner/journal/job_attempts.h"
#include "runner/report/format.h"
#include "runner/report/plan_text.h"

namespace braise::report {
namespace {
namespace fs = std::filesystem;
using telemetry::MetricValue;

bool is_better(double a, double b, bool highest) {
  if (std::isnan(a) || std::isnan(b)) return !std::isnan(a) && std::isnan(b);
  return highest ? a > b : a < b;
}

std::optional<double> ranked(const Point& point, const Ranking& ranking) {
  const std::optional<MetricValue>& value = ranking.by_last ? point.last : point.best;
  if (!value || std::isnan(value->value)) return std::nullopt;
  return value->value;
}

std::string value_text(const std::optional<MetricValue>& value) {
  return value ? number_text(value->value) : "-";
}

nlohmann::json value_json(const std::optional<MetricValue>& value) {
  if (!value) return nullptr;
  return {{"step", value->step}, {"value", std::isnan(value->value) ? nlohmann::json() : nlohmann::json(value->value)}};
}

/// The points of one metric.
std::vector<Point> points_of(const std::string& metric, const RunStatus& status, const journal::RunDirectory& run,
                             bool highest, journal::JobAttempts& attempts) {
  std::vector<Point> points;
  std::set<std::string> telling;
  for (const plan::Job& job : status.plan.jobs) {
    Point point;
    point.job = job.spec.job;
    point.stage = job.spec.stage;
    point.state = status.states.at(job.spec.job);
    point.parameters = job.parameters;
    const std::vector<MetricValue> values = telemetry::read_metric(attempts.of(job.spec.job), metric);
    if (!values.empty()) {
      telling.insert(point.stage);
      point.last = values.back();
      point.best = *std::min_element(values.begin(), values.end(), [&](const MetricValue& a, const MetricValue& b) {
        return is_better(a.value, b.value, highest);
      });
    }
    const journal::JobRecord* record = status.journal.find(job.spec.job);
    if (record != nullptr && record->completion) {
      point.attempt_dir = run.path() / record->completion->completed.attempt_dir;
    }
    points.push_back(std::move(point));
  }
  std::erase_if(points, [&](const Point& point) { return !telling.contains(point.stage); });
  return points;
}

}  // namespace

void Points::sort() {
  std::stable_sort(points.begin(), points.end(), [this](const Point& a, const Point& b) {
    const std::optional<double> left = ranked(a, ranking), right = ranked(b, ranking);
    if (!left || !right) return left.has_value() && !right.has_value();
    return is_better(*left, *right, ranking.highest);
  });
}

const Point* Points::best() const {
  const Point* best = nullptr;
  for (const Point& point : points) {
    const std::optional<double> value = ranked(point, ranking);
    if (value && (best == nullptr || is_better(*value, *ranked(*best, ranking), ranking.highest))) best = &point;
  }
  return best;
}

Points read_points(const RunStatus& status, const journal::RunDirectory& run, const Ranking& ranking) {
  journal::JobAttempts attempts(run, status.journal);
  Points result{ranking.metric, ranking, {}};
  if (!ranking.metric.empty()) {
    result.points = points_of(ranking.metric, status, run, ranking.highest, attempts);
    return result;
  }
  for (const char* metric : {"validation_loss", "loss"}) {
    result.metric = metric;
    result.points = points_of(metric, status, run, ranking.highest, attempts);
    if (!result.points.empty()) break;
  }
  return result;
}

std::string points_text(const Points& points) {
  std::vector<std::string> header = {"job", "state"};
  std::vector<std::string> names;
  for (const Point& point : points.points) {
    for (const auto& [path, value] : point.parameters.items()) {
      const std::string name = parameter_name(path, point.stage);
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  header.insert(header.end(), names.begin(), names.end());
  header.insert(header.end(),
                {"step", "last " + points.metric, points.ranking.highest ? "highest" : "lowest", "at step"});
  Table table(header);
  for (const Point& point : points.points) {
    std::map<std::string, std::string> values;
    for (const auto& [path, value] : point.parameters.items()) {
      values[parameter_name(path, point.stage)] = value.is_string() ? value.get<std::string>() : value.dump();
    }
    std::vector<std::string> row = {point.job, point.state};
    for (const std::string& name : names) row.push_back(values.contains(name) ? values.at(name) : "-");
    row.push_back(point.last ? std::to_string(point.last->step) : "-");
    row.push_back(value_text(point.last));
    row.push_back(value_text(point.best));
    row.push_back(point.best ? std::to_string(point.best->step) : "-");
    table.add(std::move(row));
  }
  return table.text();
}

nlohmann::json points_json(const Points& points, const journal::RunDirectory& run) {
  nlohmann::json list = nlohmann::json::array();
  for (const Point& point : points.points) {
    list.push_back({{"job", point.job},
                    {"stage", point.stage},
                    {"state", point.state},
                    {"parameters", point.parameters},
                    {"last", value_json(point.last)},
                    {"best", value_json(point.best)},
                    {"attempt_dir", point.attempt_dir.empty() ? nlohmann::json() : nlohmann::json(point.attempt_dir)}});
  }
  const Point* best = points.best();
  return {{"run", run.id()},
          {"path", run.path().string()},
          {"metric", points.metric},
          {"order", points.ranking.highest ? "highest" : "lowest"},
          {"best", best == nullptr ? nlohmann::json() : nlohmann::json(best->job)},
          {"points", list}};
}

}  // namespace braise::report
