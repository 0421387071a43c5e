-- Where the beginnings of prompts were computed last, so that a task goes where the prefix cache knows most of its own. Nobody
-- asks the caches: this is a guess, and where it is wrong or gone a task goes where it would have gone without it.
--   warm:{model:ms:n}     hash: digest of a beginning -> worker, as noted in the n-th period of so many ms; kept for two
--   home:{model:worker}   sorted set: waiting tasks of which the worker knows the longest beginning, by acceptance
--   load:{model}          hash: worker -> tasks that it has
local MOST_WARM = 100000 -- digests noted in one period
local MOST_PASSES = 8 -- others that may be taken before a task whose turn it is
local REACH = 4 -- mean tasks that a flow may be ahead of the one whose turn it is, and still be taken from
local FEW = 4 -- tasks that are warm at a worker, looked at in one claim
local OVER_MEAN = 1.5 -- of the tasks that workers have: more are not sent to one because it is warm

-- `hints`: milliseconds of a period, then how many of the digests behind it are of long beginnings, then the digests, of the
-- longest first.
local function read_hints(hints)
  local words = {}
  for word in string.gmatch(hints, '%S+') do words[#words + 1] = word end
  local period = tonumber(words[1])
  return words, 2 + tonumber(words[2]), period, math.floor(now_ms() / period)
end

local function warm_key(model, period, n) return key('warm', string.format('%s:%d:%d', model, period, n)) end

local function home_key(model, worker) return key('home', model .. ':' .. worker) end

local function is_ready(model, worker)
  local until_ms = redis.call('ZSCORE', key('workers', model), worker)
  return until_ms and tonumber(until_ms) > now_ms()
end

-- The ready worker that has computed the longest of the long beginnings last; nil for none, or where there is no choice.
local function home_of(model, hints)
  if redis.call('ZCARD', key('workers', model)) < 2 then return end
  local words, long, period, n = read_hints(hints)
  local late = redis.call('HMGET', warm_key(model, period, n), unpack(words, 3, long))
  local early = redis.call('HMGET', warm_key(model, period, n - 1), unpack(words, 3, long))
  local asked
  for at = 1, #late do
    local worker = late[at] or early[at]
    if worker and worker ~= asked then
      if is_ready(model, worker) then return worker end
      asked = worker
    end
  end
end

-- The worker computes the prompt now.
local function note_warm(model, hints, worker)
  local words, _, period, n = read_hints(hints)
  local warm = warm_key(model, period, n)
  if redis.call('HLEN', warm) >= MOST_WARM then return end
  local fields = {}
  for at = 3, #words do
    fields[#fields + 1] = words[at]
    fields[#fields + 1] = worker
  end
  redis.call('HSET', warm, unpack(fields))
  redis.call('PEXPIRE', warm, 2 * period)
end

local function change_load(model, worker, by)
  if redis.call('HINCRBY', key('load', model), worker, by) <= 0 then redis.call('HDEL', key('load', model), worker) end
end

-- Whether the worker, of so many slots, has one free and is not much busier than the others.
local function has_room(model, worker, slots)
  local own = tonumber(redis.call('HGET', key('load', model), worker) or 0)
  local all = redis.call('ZCARD', key('running', model))
  local workers = redis.call('ZCOUNT', key('workers', model), now_ms(), '+inf')
  return own < slots and own < math.ceil(OVER_MEAN * (all + 1) / workers)
end

-- The id of the task that a free slot of this worker takes; nil when none waits. It is the one whose turn it is, unless
-- another one is warm here that is not far behind it.
local function next_at(model, worker)
  local first = next_waiting(model)
  local home = home_key(model, worker)
  local warm = first and redis.call('ZRANGE', home, 0, FEW - 1) or {}
  if #warm == 0 then return first end
  local r = redis.call('HMGET', key('task', first), 'attempt', 'flow', 'home', 'passed')
  local clock = r[2] and redis.call('ZSCORE', key('flows', model), r[2])
  if r[1] ~= '0' or not clock or r[3] == worker or tonumber(r[4] or 0) >= MOST_PASSES then return first end
  -- The message was sent here for its own task.
  if redis.call('ZSCORE', home, id) then table.insert(warm, 1, id) end
  local prompt, answer = mean_tokens(model)
  for _, other in ipairs(warm) do
    local waits = redis.pcall('HMGET', key('task', other), 'state', 'flow')
    if waits[1] ~= 'waiting' then
      redis.call('ZREM', home, other)
    else
      local ahead = tonumber(redis.call('ZSCORE', key('flows', model), waits[2]) or math.huge) - tonumber(clock)
      local _, weight = read_order(model, waits[2])
      if ahead <= REACH * (prompt + answer) / weight then
        redis.call('HINCRBY', key('task', first), 'passed', 1)
        return other
      end
    end
  end
  return first
end
