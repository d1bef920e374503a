import argparse, time, json, sys
import numpy as np, torch, torch.nn.functional as F
from common import *
import ev
from ev import *
ap=argparse.ArgumentParser()
ap.add_argument('--name'); ap.add_argument('--start',type=int,default=3); ap.add_argument('--lr',type=float,default=1e-4); ap.add_argument('--steps',type=int,default=300)
ap.add_argument('--contents',type=int,default=8); ap.add_argument('--vers',type=int,default=4); ap.add_argument('--crop',type=int,default=256)
ap.add_argument('--w',default='bce=1,corr=1,rank=1'); ap.add_argument('--every',type=int,default=100); ap.add_argument('--threads',type=int,default=2); ap.add_argument('--seed',type=int,default=0)
ap.add_argument('--web',type=int,default=1); ap.add_argument('--target',default='logfr'); ap.add_argument('--pen',type=float,default=3e4)
a=ap.parse_args(); W={k:float(v) for k,v in (x.split('=') for x in a.w.split(','))}
torch.set_num_threads(a.threads); torch.manual_seed(a.seed); rng=np.random.default_rng(a.seed)
from lin import META,POOL,HELD,HT,DEV,SYNF,ridge,z
import io
from PIL import Image
def jp(v):
    st=io.BytesIO(); Image.fromarray(np.ascontiguousarray(v)).save(st,'JPEG',quality=int(rng.uniform(60,96)),subsampling=int(rng.choice([0,2]))); st.seek(0); return np.asarray(Image.open(st).convert('RGB'))
X=[np.load(f'pool{r}/x.npy',mmap_mode='r') for r in (0,1)]; n0=len(X[0])
get=lambda i: X[0][i] if i<n0 else X[1][i-n0]
m=backbone().to(memory_format=torch.channels_last).eval()
for p in m.parameters(): p.requires_grad_(False)
for i,b in enumerate(m.blocks):
    if i>=a.start: b.requires_grad_(True)
if a.start<=0: m.conv_stem.requires_grad_(True); m.bn1.requires_grad_(True)
def fwd(x):
    x=((x.float()/255-.5)/.5).to(memory_format=torch.channels_last)
    with torch.autocast('cpu',torch.bfloat16):
        x=m.bn1(m.conv_stem(x)); ms=[]
        for j,b in enumerate(m.blocks):
            x=b(x)
            if j in STAGES: ms.append(x)
    return moments([t.float() for t in ms])
tr=(~META.held).to_numpy()[:len(POOL)]; cl=META.clean.to_numpy(); clean_kind=(META.kind=='clean').to_numpy()
web=(META.kind=='web').to_numpy().astype(int)
tgt=z(cl)+z(META.logfr.to_numpy())
import os
if os.path.exists('init.npz'): q=np.load('init.npz'); c,mu_,sd_=q['c'],q['mu'],q['sd']
else:
    X_=POOL[tr][:,:1120].astype(np.float64); mu_=X_.mean(0); sd_=X_.std(0)+1e-6; Z=(X_-mu_)/sd_; t_=tgt[tr].astype(float).copy()
    for k in 0,1: q=web[tr]==k; Z[q]-=Z[q].mean(0); t_[q]-=t_[q].mean()
    c=np.linalg.solve(Z.T@Z+2e4*np.eye(1120),Z.T@t_); c/=(Z@c).std(); np.savez('init.npz',c=c,mu=mu_,sd=sd_)
mu=torch.tensor(mu_).float(); sd=torch.tensor(sd_).float()
head=torch.nn.Linear(1120,1); 
with torch.no_grad(): head.weight.copy_(torch.tensor(c)[None].float()); head.bias.zero_()
cal=torch.nn.Parameter(torch.tensor([1.0,-1.0]))
score=lambda f: head((f-mu)/sd).squeeze(1)
xs,_=torch.load('dev.pt',weights_only=False); sy,_=torch.load('syn.pt',weights_only=False)
di=np.arange(0,1000,3); hi=np.flatnonzero(HELD)[::6]; HTs=HT[0][::6]
SV=[0]+[i for i in range(655)]
SI=np.flatnonzero(SYN.photo.isin(['chelsea','coffee','astronaut']).to_numpy())
def syn2(s):
    d=SYN.assign(s=s).iloc[SI]; clean=d[d.type=='none'].set_index('photo').s; r={}
    for t,g in d[d.type!='none'].groupby('type'): r[t]=np.mean([-sr(np.r_[clean[p],h.s],np.r_[0,h.level]) for p,h in g.groupby('photo')])
    return r,sr(d.s,d.fsim)
def evaluate(tag):
    t=time.time()
    with torch.no_grad():
        d=np.array([score(fwd(xs[i][None])).item() for i in di])
        s=np.full(655,np.nan); 
        for i in SI: s[i]=score(fwd(sy[i][None])).item()
        h=np.concatenate([score(fwd(torch.tensor(np.stack([get(i) for i in hi[k:k+8]])).permute(0,3,1,2))).numpy() for k in range(0,len(hi),8)])
    r,p=syn2(s); v=np.array(list(r.values())); M=MOS[di]; Sb=SUB[di]
    G=GL[di]
    print(f"{tag:26s} dev {sr(d,M):.3f} ("+" ".join(f"{sr(d[Sb==k],M[Sb==k]):.2f}" for k in sorted(set(Sb)))+f") +ll {sr(rankdata(d)+rankdata(G),M):.3f} syn med {np.median(v):.3f} min {v.min():+.2f} {min(r,key=r.get)} fsim {p:.3f} held {sr(h,HTs):.3f}  [{time.time()-t:.0f}s]",flush=True)
GL=zs.set_index('image').value.reindex(LAB.image).to_numpy()
# groups
groups={}
for i,(ph,k) in enumerate(zip(META.photo,META.kind)):
    if tr[i] and (a.web or k=='clean'): groups.setdefault(ph,[]).append(i)
groups=list(groups.values()); T=tgt; T=(T-T.mean())/T.std()
isweb=(~clean_kind)
opt=torch.optim.AdamW([{'params':[p for p in m.parameters() if p.requires_grad],'lr':a.lr},{'params':[*head.parameters(),cal],'lr':a.lr}],weight_decay=1e-4)
print('trainable',sum(p.numel() for p in m.parameters() if p.requires_grad),'groups',len(groups)); evaluate('start')
order=[];t0=time.time();log=[]
for step in range(1,a.steps+1):
    for gq in opt.param_groups: gq['lr']=a.lr*min(1,step/20)*(0.5*(1+np.cos(np.pi*step/a.steps))+.01)
    idx=[]
    for _ in range(a.contents):
        if not order: order=list(rng.permutation(len(groups)))
        g=groups[order.pop()]; idx+=[g[0]]+list(rng.permutation(g[1:])[:a.vers-1])
    ims=[]
    for k in range(0,len(idx),a.vers):
        t,l=rng.integers(0,321-a.crop,2); fl=rng.random()<.5
        for i in idx[k:k+a.vers]:
            v=get(i)[t:t+a.crop,l:l+a.crop]; v=v[:,::-1] if fl else v; ims.append(jp(v) if rng.random()<.5 else np.ascontiguousarray(v))
    x=torch.tensor(np.stack(ims)).permute(0,3,1,2)
    f=fwd(x); s=score(f); y=torch.tensor(T[idx]).float(); loss=0; C=torch.tensor(cl[idx]).float(); wb=torch.tensor(isweb[idx])
    if W.get('bce'):
        use=~(wb&(C==1))
        loss=loss+W['bce']*F.binary_cross_entropy_with_logits(cal[0]*s[use]+cal[1],C[use])
    if W.get('corr'):
        u=s.clone(); v=y.clone()
        for k in (False,True):
            q=wb==k
            if q.any(): u=u-(u[q].mean()*q); v=v-(v[q].mean()*q)
        loss=loss+W['corr']*(1-(u*v).sum()/(u.norm()*v.norm()+1e-6))
    if W.get('rank'):
        sg=s.view(a.contents,a.vers); yg=y.view(a.contents,a.vers); dy=yg[:,:,None]-yg[:,None]; ds=sg[:,:,None]-sg[:,None]
        w=(dy>0.1).float(); loss=loss+W['rank']*(F.softplus(-2*ds)*w).sum()/w.sum()
    if W.get('xrank'):
        dy=y[:,None]-y[None]; ds=s[:,None]-s[None]; w=(dy>0.3).float(); loss=loss+W['xrank']*(F.softplus(-2*ds)*w).sum()/w.sum()
    if W.get('keep'):
        with torch.no_grad(): pass
    opt.zero_grad(); loss.backward(); opt.step(); log.append(loss.item())
    if step%25==0: print(step,f'{np.mean(log[-25:]):.4f}',f'{(time.time()-t0)/step:.2f}s/step',flush=True)
    if step%a.every==0: evaluate(f'{a.name} {step}'); torch.save({'m':m.state_dict(),'head':head.state_dict(),'mu':mu,'sd':sd},f'ft_{a.name}.pt')
