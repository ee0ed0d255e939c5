-- The ledger of one account and model. One run of this script handles one exchange with a worker,
-- on the server's clock.
--
-- For each kind of quota, tokens (1) and requests (2), reservations wait in line. `flowed` is how
-- much the quota has let in so far, and `reserved` is how much has been reserved, both since the
-- epoch. The place of a reservation is the value of `reserved` right after it. The reservation may
-- be used as soon as `flowed` reaches its place. Places never change, so reservations are served in
-- order. A change of the rate, or an amount that is given back, moves the times of all of them.
--
-- KEYS: the state of the ledger, when each worker last reported, what each worker last reported.
-- ARGV: worker, epoch of the ledger that it knows, 1 if it leaves, requests passed, seconds since a
--   refused request was sent, seconds to pause, requests to begin with, then for each kind the
--   fields of CLAIM. An empty string means unknown.

local DEAD = 2        -- a worker that has not reported for this many seconds is given up
local SILENT = 1      -- seconds without any report: the workers have gone on without the ledger
local GRACE = 5       -- after such a silence, no worker is given up for this many seconds
local KEPT = 600000   -- an unused ledger is kept for this many milliseconds
local EASE, RECOVER, LEAST = 0.03, 0.004, 0.8  -- of `share`, as in pacing/token_bucket.py

local CLAIM = {'ask', 'back', 'spent', 'held', 'in_flight', 'ended', 'place', 'most', 'known',
  'capacity', 'limit', 'remaining', 'reset', 'age', 'ended_then'}
local KIND = {'rate', 'capacity', 'flowed', 'reserved', 'ended', 'held', 'seen', 'most'}
local REPORT = {'held', 'in_flight', 'place', 'spent', 'back', 'ended'}
local KINDS = 2

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000

-- The state
local stored = redis.call('GET', KEYS[1])
local state = stored and cmsgpack.unpack(stored) or {now, now, 1, 0, 0, 0}
local epoch, updated, share, refused, pause, resumed = unpack(state, 1, 6)
local kinds, claims = {}, {}
for k = 1, KINDS do
  local kind, claim = {}, {}
  for i = 1, #KIND do kind[KIND[i]] = state[6 + (k - 1) * #KIND + i] or 0 end
  for i = 1, #CLAIM do claim[CLAIM[i]] = tonumber(ARGV[7 + (k - 1) * #CLAIM + i]) end
  kinds[k], claims[k] = kind, claim
end
local id, leaves = ARGV[1], ARGV[3] == '1'
local is_same = tonumber(ARGV[2]) == epoch

-- Time passes
local elapsed = math.max(0, now - updated)
if elapsed > SILENT and redis.call('ZCOUNT', KEYS[2], 1, '+inf') > 0 then
  elapsed, resumed = SILENT, now
end
for k = 1, KINDS do
  local kind = kinds[k]
  if kind.rate > 0 then
    local flowed = kind.flowed + elapsed * kind.rate * share
    kind.flowed = math.min(kind.reserved + kind.capacity, flowed)
  end
end
share = math.min(1, share + RECOVER * tonumber(ARGV[4]))

-- Give up silent workers. What they held is given back once `flowed` has reached their place.
local horizon = 0
if now - resumed > GRACE then horizon = now - DEAD end
local function report_of(worker)
  local packed = redis.call('HGET', KEYS[3], worker)
  return packed and cmsgpack.unpack(packed) or nil
end
for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', horizon, 'LIMIT', 0, 4)) do
  local report = other ~= id and report_of(other)
  if report then
    local has_come = true
    for k = 1, KINDS do
      local place = report[(k - 1) * #REPORT + 3]
      has_come = has_come and (kinds[k].rate == 0 or place <= kinds[k].flowed)
    end
    if has_come then
      for k = 1, KINDS do
        local kind, first = kinds[k], (k - 1) * #REPORT
        local held, in_flight = report[first + 1], report[first + 2]
        kind.flowed = math.min(kind.reserved + kind.capacity, kind.flowed + held)
        kind.held = kind.held - held
        kind.ended = kind.ended + held + in_flight
      end
      redis.call('HDEL', KEYS[3], other)
      redis.call('ZREM', KEYS[2], other)
    end
  end
end

-- What this worker reports
local before = report_of(id)
local report = {}
for k = 1, KINDS do
  local kind, claim, first = kinds[k], claims[k], (k - 1) * #REPORT
  if not is_same then
    -- Its requests in flight were reserved in another ledger, but they will end in this one.
    claim.held, claim.place, claim.ended_then = 0, nil, nil
    if not before then
      kind.reserved, kind.flowed = kind.reserved + claim.in_flight, kind.flowed + claim.in_flight
    end
  elseif before then
    local spent, back = claim.spent - before[first + 4], claim.back - before[first + 5]
    kind.reserved = kind.reserved + spent
    kind.flowed = kind.flowed + spent + back
    kind.ended = kind.ended + back + claim.ended - before[first + 6]
    kind.held = kind.held + claim.held - before[first + 1]
  else
    -- The worker was given up too early, so what it holds was given back; reserve it again.
    kind.reserved = kind.reserved + claim.held
    kind.held = kind.held + claim.held
    kind.ended = kind.ended - claim.in_flight
  end
end

-- What this worker knows about the quota
for k = 1, KINDS do
  local kind, claim = kinds[k], claims[k]
  if claim.most and (kind.most == 0 or claim.most < kind.most) then kind.most = claim.most end
  local most = kind.most > 0 and kind.most or math.huge
  if kind.rate == 0 and claim.known then
    -- The ledger was lost while the quota was in use, so restore it from the worker.
    kind.rate = math.min(claim.known, most) / 60
    kind.capacity, kind.flowed = claim.capacity, kind.reserved
  elseif kind.rate == 0 and kind.most > 0 then
    kind.rate, kind.capacity = most / 60, most
    kind.flowed = kind.reserved + most
  end
  if claim.limit then
    local limit, remaining = math.min(claim.limit, most), claim.remaining
    local is_new, is_first = kind.rate == 0, kind.seen == 0
    kind.rate = limit / 60
    local level = kind.flowed - kind.reserved
    if not remaining then
      if is_new then level = limit end
      kind.capacity = limit
    elseif remaining < 0 then -- named by a refusal, so the bucket is empty
      kind.capacity = is_new and limit or math.min(kind.capacity, limit)
      level = is_new and 0 or math.min(level, 0)
    else
      if claim.reset then
        kind.capacity = math.min(limit, math.max(remaining, remaining + claim.reset * kind.rate))
      elseif is_first then
        kind.capacity = limit
      end
      -- The server read its bucket between `age` seconds ago and now. It had counted everything
      -- that had ended when the request was sent, perhaps also everything that was used since, but
      -- nothing that is still held.
      local highest = remaining - kind.held + claim.age * kind.rate
      local lowest = -math.huge
      if claim.ended_then then
        lowest = remaining - (kind.reserved - claim.ended_then)
      end
      if is_first then
        level = claim.ended_then and lowest or math.min(0, remaining - kind.held)
      else
        level = math.min(math.max(level, lowest), highest)
      end
      kind.seen = 1
    end
    kind.flowed = kind.reserved + level
  end
  if kind.rate * 60 > most then kind.rate = most / 60 end
  kind.capacity = math.min(kind.capacity, most)
  if kind.rate > 0 then
    kind.flowed = math.min(kind.flowed, kind.reserved + kind.capacity)
  end
end

-- After a refusal, all workers pause once
local ago = tonumber(ARGV[5])
if ago then
  if now - ago > refused then
    refused, share = now, math.max(LEAST, share - EASE)
    for k = 1, KINDS do
      local kind = kinds[k]
      if kind.rate > 0 and kind.seen == 0 then
        kind.flowed = math.min(kind.flowed, kind.reserved)
      end
    end
  end
  pause = math.max(pause, now + tonumber(ARGV[6]))
end

-- What this worker requests
local delay, is_unknown = 0, kinds[1].rate == 0 and kinds[2].rate == 0
for k = 1, KINDS do
  local kind, claim, first = kinds[k], claims[k], (k - 1) * #REPORT
  if claim.ask > 0 then
    kind.reserved, kind.held = kind.reserved + claim.ask, kind.held + claim.ask
    claim.place = kind.reserved
  end
  if claim.place and kind.rate > 0 then
    delay = math.max(delay, (claim.place - kind.flowed) / (kind.rate * share))
  end
  report[first + 1], report[first + 2] = claim.held + claim.ask, claim.in_flight
  report[first + 3] = claim.place or 0
  report[first + 4], report[first + 5], report[first + 6] = claim.spent, claim.back, claim.ended
end

-- Before anything is known about the quota, all workers together start as slowly as one alone:
-- each answer lets in two more requests.
if is_unknown and (claims[2].place or 0) > tonumber(ARGV[7]) + 2 * kinds[2].ended then
  delay = -1
end

-- Save the state
redis.call('HSET', KEYS[3], id, cmsgpack.pack(report))
redis.call('ZADD', KEYS[2], leaves and 0 or now, id)
state = {epoch, now, share, refused, pause, resumed}
for k = 1, KINDS do
  for i = 1, #KIND do state[6 + (k - 1) * #KIND + i] = kinds[k][KIND[i]] end
end
redis.call('SET', KEYS[1], cmsgpack.pack(state), 'PX', KEPT)
if not stored or math.floor(now) ~= math.floor(updated) then
  redis.call('PEXPIRE', KEYS[2], KEPT)
  redis.call('PEXPIRE', KEYS[3], KEPT)
end

local workers = redis.call('ZCOUNT', KEYS[2], math.max(1, horizon), '+inf')
local reply = {epoch, now, math.max(1, workers), share, math.max(0, pause - now), delay}
for k = 1, KINDS do
  local kind, claim = kinds[k], claims[k]
  local place = claim.place or 0
  local level = kind.flowed - kind.reserved
  for _, value in ipairs({kind.rate, kind.capacity, level, kind.ended, place}) do
    reply[#reply + 1] = value
  end
end
for i = 1, #reply do reply[i] = string.format('%.17g', reply[i]) end
return table.concat(reply, ' ')
