-- spend: what is kept for a caller and is no task takes from the same rates. Answers done, or a refusal as `accept` does.
local refusal, left = charge(args.tenant, now_ms())
if refusal then return {refusal[1], refusal[2], refusal[3], refusal[4], unpack(left)} end
return {'done'}
